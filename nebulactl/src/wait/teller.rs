//! Telling how a deployment comes along: on a terminal one line that is rewritten, elsewhere lines with room between.

use std::time::Duration;

use nebula_core::clock::{Clock, Tick};

use crate::output::Output;

/// Between two lines about the same thing where lines cannot be rewritten.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Tells each change on standard error.
pub(crate) struct Teller<'a> {
    output: &'a Output,
    clock: Clock,
    pace: Pace,
    /// The terminal's current line is ours and not ended.
    open: bool,
}

impl<'a> Teller<'a> {
    pub(crate) fn new(output: &'a Output) -> Self {
        Self { output, clock: Clock::start(), pace: Pace::default(), open: false }
    }

    pub(crate) fn output(&self) -> &'a Output {
        self.output
    }

    /// Tells `line` if it is news. `moving`: it says how far something has got, and the next one will say more.
    pub(crate) fn tell(&mut self, line: &str, moving: bool) {
        if moving && self.output.is_live() {
            self.pace.keep(line);
            self.open = true;
            self.output.rewrite(line);
        } else if self.pace.is_due(line, moving, self.clock.now()) {
            self.end();
            self.output.note(line);
        }
    }

    /// Removes the line that was to be rewritten.
    pub(crate) fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            self.output.rewrite("");
        }
    }
}

/// Which lines are worth a line of their own.
#[derive(Default)]
struct Pace {
    told: String,
    told_at: Option<Tick>,
}

impl Pace {
    /// Takes a line as told.
    fn keep(&mut self, line: &str) {
        line.clone_into(&mut self.told);
        self.told_at = None;
    }

    /// Whether a line is to be told now; then it counts as told.
    fn is_due(&mut self, line: &str, moving: bool, now: Tick) -> bool {
        let soon = self.told_at.is_some_and(|at| now.since(at) < LINE_INTERVAL);
        if self.told == line || (moving && soon && kind(&self.told) == kind(line)) {
            return false;
        }
        line.clone_into(&mut self.told);
        self.told_at = Some(now);
        true
    }
}

/// What a line is about: what comes before its first number.
fn kind(line: &str) -> &str {
    line.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_about_the_same_thing_are_seldom_and_news_is_told_at_once() {
        let (start, mut pace) = (Tick(0), Pace::default());
        let after = |seconds| start.plus(Duration::from_secs(seconds));
        for (line, moving, at, due) in [
            ("preparing: pulling image x: 1 of 7 layers", true, 0, true),
            ("preparing: pulling image x: 1 of 7 layers", true, 0, false),
            ("preparing: pulling image x: 2 of 7 layers", true, 9, false),
            ("preparing: pulling image x: 3 of 7 layers", true, 10, true),
            ("preparing: pulling image x: 4 of 7 layers", true, 11, false),
            ("starting: loading weights: 1 of 30", true, 12, true),
            ("starting: loading weights: 2 of 30", true, 13, false),
            ("starting: exit code 1", false, 14, true),
            ("starting: exit code 2", false, 14, true),
            ("running", false, 14, true),
            ("running", false, 60, false),
        ] {
            assert_eq!(pace.is_due(line, moving, after(at)), due, "{line} at {at} s");
        }
    }
}
