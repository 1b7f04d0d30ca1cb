// SPDX-License-Identifier: Apache-2.0

/// Text in columns: a heading and rows, each column as wide as its widest cell, two spaces between.
struct AlignedTable {
    private var rows: [[String]]

    init(heading: [String]) { rows = [heading] }

    mutating func add(_ cells: [String]) { rows.append(cells) }

    var text: String {
        let columns = rows.map(\.count).max() ?? 0
        let widths = (0..<columns).map { column in rows.map { column < $0.count ? $0[column].count : 0 }.max() ?? 0 }
        return rows.map { row in
            var line = ""
            for (column, cell) in row.enumerated() {
                line += cell
                // No spaces at the end of a line.
                if column < row.count - 1 { line += String(repeating: " ", count: widths[column] - cell.count + 2) }
            }
            return line
        }.joined(separator: "\n")
    }
}
