#include "decoders.h"
#include "failure.h"

#if INFER_PNG

#include <csetjmp>
#include <cstring>

#include <png.h>

namespace {

// What must outlive a longjmp, which skips destructors.
struct Decoding {
    png_structp png = nullptr;
    png_infop info = nullptr;
    const Bytes* file = nullptr;
    std::size_t position = 0;
    std::string message;
    Image image;
    Bytes wide; // grey of 16 bits, big-endian
    std::vector<png_bytep> rows;
    ~Decoding() { png_destroy_read_struct(&png, &info, nullptr); }
};

void read(png_structp png, png_bytep to, std::size_t length)
{
    Decoding* d = static_cast<Decoding*>(png_get_io_ptr(png));
    if (length > d->file->size() - d->position)
        png_error(png, "the file ends too early");
    std::memcpy(to, d->file->data() + d->position, length);
    d->position += length;
}

[[noreturn]] void leave(png_structp png, png_const_charp message)
{
    static_cast<Decoding*>(png_get_error_ptr(png))->message = message;
    png_longjmp(png, 1);
}

void ignore(png_structp, png_const_charp) {}

void run(Decoding& d)
{
    png_set_read_fn(d.png, &d, read);
    png_read_info(d.png, d.info);
    const int bits = png_get_bit_depth(d.png, d.info);
    const int type = png_get_color_type(d.png, d.info);
    const bool grey = !(type & PNG_COLOR_MASK_COLOR);
    const bool wide = type == PNG_COLOR_TYPE_GRAY && bits == 16;
    const bool keyed = png_get_valid(d.png, d.info, PNG_INFO_tRNS);
    const bool alpha = !wide && (keyed || (type & PNG_COLOR_MASK_ALPHA));
    if (type == PNG_COLOR_TYPE_PALETTE)
        png_set_palette_to_rgb(d.png);
    if (grey && bits < 8)
        png_set_expand_gray_1_2_4_to_8(d.png);
    if (bits == 16 && !wide)
        png_set_strip_16(d.png); // the higher byte, as Pillow does
    if (alpha && keyed)
        png_set_tRNS_to_alpha(d.png);
    if (alpha && grey)
        png_set_gray_to_rgb(d.png);
    png_set_interlace_handling(d.png);
    png_read_update_info(d.png, d.info);
    d.image = new_image(png_get_image_width(d.png, d.info), png_get_image_height(d.png, d.info),
                        alpha ? 4 : grey ? 1 : 3);
    const std::size_t stride = png_get_rowbytes(d.png, d.info);
    d.wide.resize(wide ? stride * d.image.height : 0);
    for (int y = 0; y < d.image.height; y++)
        d.rows.push_back(wide ? d.wide.data() + stride * y : d.image.row(y));
    png_read_image(d.png, d.rows.data());
    png_read_end(d.png, nullptr);
    for (std::size_t i = 0; i < d.wide.size() / 2; i++) {
        const int value = d.wide[2 * i] << 8 | d.wide[2 * i + 1];
        d.image.pixels[i] = static_cast<std::uint8_t>(value / 257.0 + 0.5);
    }
}

} // namespace

Image decode_png(const Bytes& file)
{
    Decoding d;
    d.file = &file;
    d.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &d, leave, ignore);
    d.info = d.png ? png_create_info_struct(d.png) : nullptr;
    if (!d.info)
        throw Failure("cannot be decoded: libpng does not start");
    if (setjmp(png_jmpbuf(d.png)) != 0)
        throw Failure("is a broken PNG: " + d.message);
    run(d);
    return std::move(d.image);
}

Bytes encode_png(const Image& image)
{
    png_image how{};
    how.version = PNG_IMAGE_VERSION;
    how.width = static_cast<png_uint_32>(image.width);
    how.height = static_cast<png_uint_32>(image.height);
    how.format = image.channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
    png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(how);
    Bytes file(size);
    if (!png_image_write_to_memory(&how, file.data(), &size, 0, image.pixels.data(), 0, nullptr))
        throw Failure(std::string("cannot be encoded: ") + how.message);
    file.resize(size);
    return file;
}

#else

Image decode_png(const Bytes&)
{
    throw Failure("is a PNG, and libpng was not found when this program was built");
}

Bytes encode_png(const Image&)
{
    throw Failure("would be a PNG, and libpng was not found when this program was built: take .ppm");
}

#endif
