//! Aligned text columns for terminal output.

use std::fmt;

use crate::text::escape::single_line;

/// A table with two spaces between columns and `indent` before each row. Cells are escaped so that each stays on one line.
#[derive(Debug)]
pub struct TextTable<const N: usize> {
    indent: &'static str,
    rows: Vec<[String; N]>,
}

impl<const N: usize> TextTable<N> {
    pub fn indented(indent: &'static str) -> Self {
        Self { indent, rows: Vec::new() }
    }

    pub fn row(&mut self, cells: [&dyn fmt::Display; N]) {
        self.rows.push(cells.map(|cell| single_line(&cell.to_string()).into_owned()));
    }
}

impl<const N: usize> fmt::Display for TextTable<N> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; N] = std::array::from_fn(width);
        for row in &self.rows {
            let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(out, "{}{}", self.indent, cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_width_is_that_of_the_widest_cell() {
        let mut columns = TextTable::indented("  ");
        columns.row([&"upstream", &"https://registry.example/"]);
        columns.row([&"age", &"72 h"]);
        assert_eq!(columns.to_string(), "  upstream  https://registry.example/\n  age       72 h\n");
    }

    #[test]
    fn cell_stays_in_its_row() {
        let mut columns = TextTable::indented("");
        columns.row([&"a\n::error::b", &"\u{1b}[2J"]);
        columns.row([&"c", &"d"]);
        assert_eq!(columns.to_string(), "a\\n::error::b  \\u001b[2J\nc              d\n");
    }
}
