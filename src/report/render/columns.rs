//! Tables as columns of text, spread over as many blocks as the terminal needs.

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use maud::{Markup, html};

/// A column with all its text.
pub(crate) struct Column {
    /// Lines of the head.
    head: Vec<String>,
    cells: Vec<String>,
    pub(crate) alignment: CellAlignment,
}

impl Column {
    /// A column of numbers, aligned to the right.
    pub(crate) fn new(head: Vec<String>, cells: Vec<String>) -> Self {
        Self { head, cells, alignment: CellAlignment::Right }
    }

    /// Rows.
    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    /// Columns of the terminal, with the two spaces before it.
    fn width(&self) -> usize {
        let widths = self.head.iter().chain(&self.cells).map(|text| text.chars().count());
        widths.max().unwrap_or(0) + 2
    }
}

/// Spreads groups of columns over tables that fit into `width`, each beginning
/// with the `leading` columns. A group stays together if it fits at all.
pub(super) fn blocks(leading: &[Column], groups: Vec<Vec<Column>>, width: usize) -> Vec<String> {
    let room = width.saturating_sub(leading.iter().map(Column::width).sum());
    let mut packed: Vec<Vec<Column>> = Vec::new();
    let mut used = room;
    for group in groups {
        let needed: usize = group.iter().map(Column::width).sum();
        let units: Vec<Vec<Column>> = if needed > room {
            group.into_iter().map(|column| vec![column]).collect()
        } else {
            vec![group]
        };
        for unit in units {
            let needed: usize = unit.iter().map(Column::width).sum();
            match packed.last_mut() {
                Some(block) if used + needed <= room => {
                    used += needed;
                    block.extend(unit);
                }
                _ => {
                    used = needed;
                    packed.push(unit);
                }
            }
        }
    }
    packed.iter().map(|block| table(&leading.iter().chain(block).collect::<Vec<_>>())).collect()
}

/// The same as a table of a web page, its caption above it. The first
/// `headings` columns head their rows; what they leave empty is as above.
pub(super) fn html(caption: &str, columns: &[Column], headings: usize) -> Markup {
    let rows = columns.iter().map(|column| column.cells.len()).max().unwrap_or(0);
    let cell = |column: &Column, row: usize| column.cells.get(row).cloned().unwrap_or_default();
    let heading = |column: &Column, row: usize| {
        let above = column.cells.iter().take(row + 1).rev().find(|text| !text.is_empty());
        above.cloned().unwrap_or_default()
    };
    let side = |column: &Column| match column.alignment {
        CellAlignment::Right => "right",
        _ => "left",
    };
    html! {
        div .scroll role="region" tabindex="0" aria-label=(caption) {
            table {
                caption { (caption) }
                thead { tr { @for column in columns {
                    th scope="col" class=(side(column)) { (column.head.join(" ").trim()) }
                } } }
                tbody { @for row in 0..rows { tr { @for (at, column) in columns.iter().enumerate() {
                    @if at < headings {
                        th scope="row" class=(side(column)) { (heading(column, row)) }
                    } @else {
                        td class=(side(column)) { (cell(column, row)) }
                    }
                } } } }
            }
        }
    }
}

/// A table of these columns; further cells of shorter ones stay empty. No line
/// ends with spaces.
pub(crate) fn table(columns: &[&Column]) -> String {
    let mut table = Table::new();
    let rule = LineStyle::none().fill('-').junction('-');
    table
        .load_style(TableStyle::new().header_separator(rule))
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(columns.iter().map(|column| column.head.join("\n")));
    let rows = columns.iter().map(|column| column.cells.len()).max().unwrap_or(0);
    for row in 0..rows {
        table.add_row(columns.iter().map(|c| c.cells.get(row).cloned().unwrap_or_default()));
    }
    for (i, column) in columns.iter().enumerate() {
        if let Some(shown) = table.column_mut(i) {
            shown.set_cell_alignment(column.alignment);
            shown.set_padding((1, 0));
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// The same as a table in Markdown.
pub(crate) fn markdown(columns: &[Column]) -> String {
    let escaped = |text: &str| text.replace('|', "\\|");
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let head = columns.iter().map(|column| escaped(&column.head.join(" "))).collect();
    let rule = columns.iter().map(|column| match column.alignment {
        CellAlignment::Right => "--:".to_owned(),
        _ => ":--".to_owned(),
    });
    let rows = columns.iter().map(|column| column.cells.len()).max().unwrap_or(0);
    let mut lines = vec![line(head), line(rule.collect())];
    for row in 0..rows {
        let cell = |column: &Column| column.cells.get(row).map(|text| escaped(text));
        lines.push(line(columns.iter().map(|c| cell(c).unwrap_or_default()).collect()));
    }
    lines.join("\n")
}

/// Right-aligns texts to the width of the widest.
pub(super) fn align(texts: Vec<String>) -> Vec<String> {
    let width = texts.iter().map(|text| text.chars().count()).max().unwrap_or(0);
    texts.into_iter().map(|text| format!("{text:>width$}")).collect()
}

/// Breaks a line between words so that it fits into `width`, further lines
/// indented; a word that is longer stays whole.
pub(crate) fn wrap(line: &str, width: usize) -> String {
    let mut text = String::new();
    let mut used = 0;
    for word in line.split_whitespace() {
        let length = word.chars().count();
        if used == 0 {
            used = length;
        } else if used + 1 + length <= width {
            text.push(' ');
            used += 1 + length;
        } else {
            text.push_str("\n  ");
            used = 2 + length;
        }
        text.push_str(word);
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_hold_every_column_once_and_fit(
            widths in prop::collection::vec(prop::collection::vec(1usize..30, 1..4), 1..6),
            width in 0usize..120,
        ) {
            let mut next = 0;
            let groups: Vec<Vec<Column>> = widths.iter().map(|group| {
                group.iter().map(|w| {
                    next += 1;
                    Column::new(vec![format!("#{next}#")], vec!["x".repeat(*w)])
                }).collect()
            }).collect();
            let leading = [Column::new(vec!["load".to_owned()], vec!["60".to_owned()])];
            let text = blocks(&leading, groups, width);
            let all = text.join("\n");
            for column in 1..=next {
                prop_assert_eq!(all.matches(&format!("#{column}#")).count(), 1);
            }
            // A block is wider than the terminal only if it has a single column.
            for block in &text {
                let widest = block.lines().map(|line| line.chars().count()).max().unwrap_or(0);
                prop_assert!(widest <= width || block.matches('#').count() == 2, "{}", block);
            }
        }

        #[test]
        fn wrapping_keeps_every_word(text in "[a-z]{1,9}( [a-z]{1,9}){0,20}", width in 0usize..60) {
            let wrapped = wrap(&text, width);
            let words = |text: &str| -> Vec<String> {
                text.split_whitespace().map(str::to_owned).collect()
            };
            prop_assert_eq!(words(&wrapped), words(&text));
            for line in wrapped.lines() {
                prop_assert!(line.len() <= width || words(line).len() == 1, "{}", line);
            }
        }
    }
}
