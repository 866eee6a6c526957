//! Tables of Markdown.

use std::fmt::Write;

pub(super) fn shown(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{value:.1}"))
}

pub(super) fn signed(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{value:+.1}"))
}

/// A table of Markdown, its columns as wide as their widest cells.
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    pub(super) fn new(head: impl IntoIterator<Item = String>) -> Self {
        Self(vec![head.into_iter().collect()])
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.0.push(cells);
    }

    pub(super) fn markdown(&self) -> String {
        let columns = self.0[0].len();
        let width = |i: usize| self.0.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &[String]| {
            let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, &width))| match i {
                0 => format!(" {cell:<width$} "),
                _ => format!(" {cell:>width$} "),
            });
            format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
        };
        let rule = widths.iter().enumerate().map(|(i, &width)| match i {
            0 => "-".repeat(width + 2),
            _ => format!("{}:", "-".repeat(width + 1)),
        });
        let mut text = line(&self.0[0]);
        let _ = writeln!(text, "|{}|", rule.collect::<Vec<_>>().join("|"));
        for row in &self.0[1..] {
            text.push_str(&line(row));
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align() {
        let mut table = Table::new(["a".to_owned(), "long".to_owned()]);
        table.row(vec!["first".to_owned(), "1".to_owned()]);
        assert_eq!(table.markdown(), "| a     | long |\n|-------|-----:|\n| first |    1 |\n\n");
    }
}
