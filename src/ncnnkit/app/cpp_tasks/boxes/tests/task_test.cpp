// Outputs in which one box has a high score become that box, and no other.
#include <algorithm>
#include <cmath>
#include <map>

#include "expect.h"
#include "decoder.h"
#include "task.h"

namespace {

// The first class that is not the background.
const int kClass = kDecoder.background == 0 ? 1 : 0;

// The number in a column of a part, in the row of the box or in others.
float number(Column part, int column, bool found)
{
    constexpr float corners[] = {0.25f, 0.25f, 0.75f, 0.75f};
    const bool logits = kDecoder.scores != Activation::none;
    switch (part) {
    case Column::boxes: return kDecoder.bins > 1 ? 0.0f : corners[column];
    case Column::priors: return corners[column];
    case Column::scores: return column == (found ? kClass : kDecoder.background) ? (logits ? 20.0f : 1.0f) : (logits ? -20.0f : 0.0f);
    case Column::objectness: return logits ? (found ? 5.0f : -20.0f) : found; // of a larger one no part is left to differ
    default: return 0.0f;
    }
}

// A table of so many rows, of which one is the box.
ncnn::Mat output(const Table& table, int cells, int each, int box)
{
    std::vector<std::pair<Column, int>> columns;
    for (Column part : table.columns)
        for (int i = 0; i < width_of(part); i++)
            columns.emplace_back(part, i);
    const int wide = static_cast<int>(columns.size()), rows = cells * each;
    std::vector<float> values(std::size_t(rows) * wide);
    for (int row = 0; row < rows; row++)
        for (int column = 0; column < wide; column++) {
            const int cell = row / each, of_cell = row % each;
            int at = row * wide + column; // Layout::rows
            if (table.layout == Layout::columns)
                at = column * rows + row;
            if (table.layout == Layout::maps)
                at = (of_cell * wide + column) * cells + cell;
            if (table.layout == Layout::planes)
                at = (column * each + of_cell) * cells + cell;
            if (table.layout == Layout::stacks)
                at = (of_cell * cells + cell) * wide + column;
            values[at] = number(columns[column].first, columns[column].second, row == box);
        }
    const int first = table.layout == Layout::rows ? rows : table.layout == Layout::columns ? wide : wide * each;
    const bool stacks = table.layout == Layout::stacks;
    ncnn::Mat mat(stacks ? wide : static_cast<int>(values.size()) / first, stacks ? rows : first);
    std::copy(values.begin(), values.end(), static_cast<float*>(mat));
    return mat;
}

} // namespace

int main()
{
    int count = 0;
    for (const Grid& grid : kDecoder.anchors)
        count += grid.count();
    const int rows = count ? count : 5, middle = rows / 2;
    std::vector<ncnn::Mat> outputs(8);
    std::map<Column, std::size_t> levels;
    std::map<Column, int> begins;
    for (const Table& table : kDecoder.tables) {
        const Column part = table.columns.front();
        const bool levelled = std::count_if(kDecoder.tables.begin(), kDecoder.tables.end(), [&](const Table& other) {
            return other.columns == table.columns;
        }) > 1;
        const std::size_t level = levels[part]++;
        const bool on_grid = level < kDecoder.anchors.size() && part != Column::prototypes;
        const int each = on_grid ? static_cast<int>(kDecoder.anchors[level].sizes.size()) : 1;
        const int own = on_grid && levelled ? kDecoder.anchors[level].count() : rows;
        outputs.resize(std::max<std::size_t>(outputs.size(), table.output + 1));
        if (part == Column::prototypes)
            outputs[table.output] = ncnn::Mat(4, 4, kDecoder.prototypes), outputs[table.output].fill(0.0f);
        else
            outputs[table.output] = output(table, own / each, each, middle - begins[part]);
        begins[part] += own;
    }
    const int side = 1 << 12; // so large that every anchor lies in it
    const Prediction found = decode({{outputs, {side, side, 0, 0, side, side, side, side}}});
    expect(found.boxes.size() == 1, "one box");
    if (found.boxes.size() == 1) {
        const Box& box = found.boxes.front();
        const bool labelled = std::any_of(kDecoder.tables.begin(), kDecoder.tables.end(), [](const Table& table) {
            return std::find(table.columns.begin(), table.columns.end(), Column::label) != table.columns.end();
        });
        expect(box.index == (labelled ? 0 : kClass) + kDecoder.first_label, "its class");
        expect(box.score > 0.9f, "its score");
        expect(box.x1 < box.x2 && box.y1 < box.y2, "its corners");
        expect(static_cast<int>(box.points.size()) == kDecoder.keypoints, "its keypoints");
    }
    expect(agreement(found, found) == 1.0, "a prediction agrees with itself");
    expect(agreement(found, Prediction()) == 0.0, "and not with none");
    return failures ? 1 : 0;
}
