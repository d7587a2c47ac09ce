#include "split.h"

#include <algorithm>
#include <cstdlib>
#include <set>
#include <sstream>

#include "failure.h"

namespace {

struct Name {
    const char* text;
    Cluster cluster;
};
constexpr Name kNames[] = {{"all", Cluster::all}, {"big", Cluster::big}, {"little", Cluster::little}};

Lane parse_lane(const std::string& text)
{
    if (text == "gpu")
        return {true, Cluster::all, 1};
    const std::size_t colon = text.find(':');
    for (const Name& name : kNames) {
        if (text.substr(0, colon) != name.text)
            continue;
        const int available = cores(name.cluster);
        if (available == 0)
            throw Failure("--streams: this machine has no " + std::string(name.text) + " cores");
        const int threads = colon == std::string::npos ? available : std::atoi(text.c_str() + colon + 1);
        if (threads >= 1 && threads <= 256)
            return {false, name.cluster, threads};
    }
    throw UsageError("--streams: '" + text + "' is no worker: big:4, little:4, all:8 or gpu");
}

Split joined(Split first, const Split& second)
{
    first.insert(first.end(), second.begin(), second.end());
    return first;
}

// The ways to use a cluster's cores: one worker with all of them, workers of two, workers of one.
std::vector<Split> ways(Cluster cluster)
{
    const int available = cores(cluster);
    std::vector<Split> found;
    for (int threads : {available, 2, 1})
        if (threads >= 1 && threads <= available)
            found.push_back(Split(static_cast<std::size_t>(available / threads), Lane{false, cluster, threads}));
    return found;
}

} // namespace

Split parse_split(const std::string& text)
{
    Split split;
    std::istringstream stream(text);
    for (std::string lane; std::getline(stream, lane, ',');)
        split.push_back(parse_lane(lane));
    return split;
}

std::string to_text(const Split& split)
{
    std::string text;
    for (const Lane& lane : split) {
        text += text.empty() ? "" : ",";
        const auto is_it = [&](const Name& name) { return name.cluster == lane.cluster; };
        text += lane.gpu ? "gpu" : std::find_if(kNames, kNames + 3, is_it)->text + (":" + std::to_string(lane.threads));
    }
    return text;
}

std::vector<Split> candidates(Cluster cluster, int threads, bool gpu)
{
    std::vector<Split> found = {{{false, cluster, threads}}};
    const bool one_kind = cores(Cluster::little) == 0 || cores(Cluster::big) == cores(Cluster::all);
    for (const Split& big : ways(one_kind ? cluster : Cluster::big)) {
        found.push_back(big);
        if (!one_kind)
            for (const Split& little : ways(Cluster::little))
                found.push_back(joined(big, little));
    }
    if (gpu) {
        const std::vector<Split> on_cpu = found;
        found.push_back({{true, Cluster::all, 1}});
        for (const Split& split : on_cpu)
            found.push_back(joined(split, {{true, Cluster::all, 1}}));
    }
    std::set<std::string> seen;
    const auto again = [&](const Split& split) { return !seen.insert(to_text(split)).second; };
    found.erase(std::remove_if(found.begin(), found.end(), again), found.end());
    return found;
}
