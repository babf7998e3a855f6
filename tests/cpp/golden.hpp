#pragma once

#include <cstdlib>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

// Reads the tables that tests/data/make_golden.py writes. The build defines SELM_TEST_DATA_DIR.

namespace selm::test {

inline std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) {
    parts.push_back(part);
  }
  return parts;
}

/// One line of a table, by column name.
class GoldenRow {
 public:
  GoldenRow(const std::vector<std::string>& names, const std::vector<std::string>& values) {
    for (std::size_t i = 0; i < names.size(); ++i) {
      values_[names[i]] = values.at(i);
    }
  }

  /// Every value with its column, for messages.
  std::string line() const {
    std::string all;
    for (const auto& [column, value] : values_) {
      all += column + " " + value + ", ";
    }
    return all;
  }

  const std::string& text(const std::string& column) const { return values_.at(column); }

  bool has(const std::string& column) const { return values_.count(column) > 0; }

  double number(const std::string& column) const { return parse(text(column)); }

  /// Nothing for an empty column, and for one that the table does not have.
  std::optional<double> optional_number(const std::string& column) const {
    return has(column) && !text(column).empty() ? std::optional(number(column)) : std::nullopt;
  }

  std::vector<double> numbers(const std::string& column) const {
    std::vector<double> list;
    for (const std::string& part : split(text(column), ' ')) {
      list.push_back(parse(part));
    }
    return list;
  }

 private:
  /// Not std::stod, which refuses subnormal numbers.
  static double parse(const std::string& text) { return std::strtod(text.c_str(), nullptr); }

  std::map<std::string, std::string> values_;
};

inline std::vector<GoldenRow> read_golden(const std::string& table) {
  const std::string path = std::string(SELM_TEST_DATA_DIR) + "/" + table;
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) {
    throw std::runtime_error("cannot read " + path);
  }
  const std::vector<std::string> names = split(line, ',');
  std::vector<GoldenRow> rows;
  while (std::getline(file, line)) {
    rows.emplace_back(names, split(line, ','));
  }
  return rows;
}

}  // namespace selm::test
