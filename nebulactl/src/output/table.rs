//! Aligned columns and labelled facts; colour only marks what the words already say.

use std::fmt::Write as _;

/// What a cell's colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tone {
    Plain,
    Good,
    Busy,
    Bad,
    Faint,
}

/// One field of a table.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, tone: Tone::Plain }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// A cell that holds the state of something, in the colour of that state.
pub(crate) fn state(text: String) -> Cell {
    let tone = match text.as_str() {
        "running" | "online" | "schedulable" | "ok" | "ready" | "healthy" | "active" | "done" | "in_sync" => {
            Tone::Good
        }
        "pending" | "preparing" | "starting" | "stopping" | "deleting" | "suspect" | "unreachable"
        | "cordoned" | "draining" | "restarting" | "degraded" | "changing" => Tone::Busy,
        "failed" | "offline" | "crashed" | "unhealthy" | "not ready" | "failing" | "blocked" => Tone::Bad,
        "stopped" | "drained" | "expired" | "cancelled" | "off" => Tone::Faint,
        _ => Tone::Plain,
    };
    Cell { text, tone }
}

impl Cell {
    fn width(&self) -> usize {
        self.text.chars().count()
    }

    fn painted(&self, color: bool) -> String {
        let code = match self.tone {
            Tone::Good => "32",
            Tone::Busy => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
            Tone::Plain => return self.text.clone(),
        };
        if color { format!("\u{1b}[{code}m{}\u{1b}[0m", self.text) } else { self.text.clone() }
    }
}

/// Rows under a header. A column that is empty in every row is left out.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these columns and no rows.
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with a cell per column.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The table's lines.
    pub(super) fn render(&self, color: bool) -> String {
        let columns: Vec<(usize, &str, usize)> = self
            .header
            .iter()
            .enumerate()
            .filter_map(|(at, title)| {
                let widest =
                    self.rows.iter().filter_map(|row| row.get(at)).map(Cell::width).max().unwrap_or(0);
                let hidden = widest == 0 && !self.rows.is_empty();
                (!hidden).then_some((at, *title, widest.max(title.len())))
            })
            .collect();
        let mut out = String::new();
        let titles = columns.iter().map(|(_, title, width)| (Cell::from(*title), *width));
        push_line(&mut out, titles, color);
        for row in &self.rows {
            let cells = columns.iter().filter_map(|(at, _, width)| {
                let cell = row.get(*at)?;
                let cell = if cell.text.is_empty() { Cell::from("-") } else { cell.clone() };
                Some((cell, *width))
            });
            push_line(&mut out, cells, color);
        }
        out
    }
}

fn push_line(out: &mut String, cells: impl Iterator<Item = (Cell, usize)>, color: bool) {
    let mut gap = 0;
    for (cell, width) in cells {
        let _ = write!(out, "{:gap$}{}", "", cell.painted(color));
        gap = width.saturating_sub(cell.width()) + 2;
    }
    out.push('\n');
}

/// Labels with values, one per line. A fact without a value is left out.
#[derive(Debug, Default)]
pub(crate) struct Facts(Vec<(&'static str, Cell)>);

impl Facts {
    /// Adds a fact.
    pub(crate) fn add(&mut self, label: &'static str, cell: impl Into<Cell>) {
        let cell = cell.into();
        if !cell.text.is_empty() {
            self.0.push((label, cell));
        }
    }

    /// The lines.
    pub(super) fn render(&self, color: bool) -> String {
        let widest = self.0.iter().map(|(label, _)| label.len() + 1).max().unwrap_or(0);
        self.0.iter().fold(String::new(), |mut out, (label, cell)| {
            let _ = writeln!(out, "{:widest$}  {}", format!("{label}:"), cell.painted(color));
            out
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&["NAME", "STATE", "NOTE", "AGE"]);
        table.row(vec!["demo".into(), state("running".to_owned()), "".into(), "3m".into()]);
        table.row(vec!["größer-7b".into(), state("failed".to_owned()), "".into(), "".into()]);
        table
    }

    #[test]
    fn columns_align_and_empty_ones_are_left_out() {
        let expected = "NAME       STATE    AGE\ndemo       running  3m\ngrößer-7b  failed   -\n";
        assert_eq!(sample().render(false), expected);
    }

    #[test]
    fn colour_does_not_move_columns() {
        let painted = sample().render(true);
        assert!(painted.contains("\u{1b}[32mrunning\u{1b}[0m  3m"), "{painted}");
        let stripped =
            ["\u{1b}[32m", "\u{1b}[31m", "\u{1b}[0m"].iter().fold(painted, |t, code| t.replace(code, ""));
        assert_eq!(stripped, sample().render(false));
    }

    #[test]
    fn an_empty_table_still_shows_its_columns() {
        assert_eq!(Table::new(&["NAME", "AGE"]).render(false), "NAME  AGE\n");
    }

    #[test]
    fn facts_align_and_skip_what_is_unknown() {
        let mut facts = Facts::default();
        facts.add("Name", "demo");
        facts.add("Image", "");
        facts.add("Access token", "nbtok_1");
        assert_eq!(facts.render(false), "Name:          demo\nAccess token:  nbtok_1\n");
    }
}
