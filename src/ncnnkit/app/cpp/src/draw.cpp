#include "draw.h"

#include <algorithm>
#include <cctype>
#include <cmath>

namespace {

constexpr int kWide = 3, kHigh = 5; // of a letter, in dots

// Five rows of three dots, a row in each octal digit: the characters from space to underscore.
constexpr int kFont[] = {
    000000, 022202, 055000, 057575, 036736, 051245, 025256, 022000, 012221, 042224, 005250, 002720, 000024, 000700,
    000002, 011244, 075557, 026227, 071747, 071317, 055711, 074717, 074757, 071122, 075757, 075717, 002020, 002024,
    012421, 007070, 042124, 071202, 025743, 025755, 065656, 034443, 065556, 074647, 074644, 034553, 055755, 072227,
    011152, 055655, 044447, 057755, 065555, 025552, 065644, 025563, 065655, 034216, 072222, 055557, 055552, 055775,
    055255, 055222, 071247, 064446, 044211, 031113, 025000, 000007,
};

// The nearest whole pixel from 0 to a size; 0 for what is no number.
int within(double place, int size)
{
    return place > 0 ? static_cast<int>(std::min(place + 0.5, double(size))) : 0;
}

} // namespace

Colour colour_of(int index)
{
    const double hue = std::fmod(std::abs(index) * 0.618034, 1.0) * 6; // steps of the golden ratio never come near each other soon
    const auto channel = [&](double middle) {
        const double away = std::fabs(hue - middle);
        return static_cast<std::uint8_t>(255 * std::clamp(2 - std::min(away, 6 - away), 0.0, 1.0));
    };
    return {channel(0), channel(2), channel(4)};
}

int thickness(const Image& image)
{
    return 1 + std::max(image.width, image.height) / 400;
}

void fill(Image& image, double x1, double y1, double x2, double y2, const Colour& colour)
{
    const int left = within(x1, image.width), right = within(x2, image.width);
    for (int y = within(y1, image.height); y < within(y2, image.height); y++)
        for (int x = left; x < right; x++)
            std::copy(colour.begin(), colour.end(), image.row(y) + std::size_t(x) * 3);
}

void outline(Image& image, double x1, double y1, double x2, double y2, const Colour& colour)
{
    const int wide = thickness(image);
    fill(image, x1, y1, x2, y1 + wide, colour);
    fill(image, x1, y2 - wide, x2, y2, colour);
    fill(image, x1, y1, x1 + wide, y2, colour);
    fill(image, x2 - wide, y1, x2, y2, colour);
}

void dot(Image& image, double x, double y, const Colour& colour)
{
    const int half = thickness(image);
    fill(image, x - half, y - half, x + half + 1, y + half + 1, colour);
}

void write(Image& image, double x, double y, const std::string& text, const Colour& colour)
{
    const int dot = thickness(image) + 1, step = (kWide + 1) * dot;
    fill(image, x, y, x + double(text.size()) * step + dot, y + (kHigh + 2) * dot, colour);
    const bool bright = colour[0] * 3 + colour[1] * 6 + colour[2] > 1275; // half of white, as eyes see it
    const std::uint8_t ink = bright ? 0 : 255;
    for (std::size_t i = 0; i < text.size(); i++) {
        const int letter = std::toupper(static_cast<unsigned char>(text[i])) - ' ';
        const int dots = kFont[letter >= 0 && letter < 64 ? letter : '?' - ' '];
        for (int bit = 0; bit < kWide * kHigh; bit++)
            if (dots >> (kWide * kHigh - 1 - bit) & 1) {
                const double left = x + double(i) * step + (1 + bit % kWide) * dot, top = y + (1 + bit / kWide) * dot;
                fill(image, left, top, left + dot, top + dot, {ink, ink, ink});
            }
    }
}
