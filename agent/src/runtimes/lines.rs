//! Reading lines of logs: what is new in a line, percentages and shares.

use crate::progress::Progress;

/// How much of a line is looked at, in bytes. No line that tells of progress is longer.
const LOOK_MAX: usize = 1_024;

/// The part of a line that was written last: progress bars write over themselves with carriage returns. Bounded.
pub(super) fn newest(line: &str) -> &str {
    let line = line.trim_end();
    let tail = line.get(boundary(line, line.len().saturating_sub(LOOK_MAX))..).unwrap_or_default();
    match tail.rsplit_once('\r') {
        Some((_, last)) => last,
        None => line.get(..boundary(line, LOOK_MAX)).unwrap_or_default(),
    }
}

/// The first place at or after `at` between two characters.
fn boundary(text: &str, at: usize) -> usize {
    (at..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
}

/// Progress, in words.
pub(super) fn said(percent: Option<f32>, message: &str) -> Option<Progress> {
    Some(Progress { percent, message: message.to_owned() })
}

/// The first percentage in a text: `25` of `shards:  25% Completed`.
pub(super) fn percent(text: &str) -> Option<f32> {
    text.match_indices('%').find_map(|(end, _)| {
        let before = text.get(..end)?.trim_end();
        let digits = before.len() - before.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let number: f32 = before.get(before.len() - digits..)?.parse().ok()?;
        (0.0..=100.0).contains(&number).then_some(number)
    })
}

/// The share that follows `mark`, in percent: `50` of `Download: [1/2]` with the mark `Download: [`.
pub(super) fn share(text: &str, mark: &str) -> Option<f32> {
    let (_, rest) = text.split_once(mark)?;
    let (done, rest) = rest.split_once('/')?;
    let total = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    let (done, total): (u16, u16) = (done.trim().parse().ok()?, total.parse().ok()?);
    (total > 0 && done <= total).then(|| f32::from(done) / f32::from(total) * 100.0)
}

/// The words of a bar of the Hugging Face hub's client, as several runtimes show them while they fetch.
pub(super) fn hub(text: &str) -> Option<Progress> {
    let is_file = text.contains(".safetensors:") || text.contains(".bin:") || text.contains(".gguf:");
    let is_bar = text.contains("%|") && (is_file || text.contains("Fetching "));
    percent(text).filter(|_| is_bar).and_then(|percent| said(Some(percent), "downloading the model"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_part_of_a_line_counts() {
        assert_eq!(newest("plain\n"), "plain");
        assert_eq!(newest("10%\r20%\r30%\r\n"), "30%");
        let long = format!("{}\r42%", "x".repeat(100_000));
        assert_eq!(newest(&long), "42%");
        assert!(newest(&"ä".repeat(100_000)).len() <= LOOK_MAX);
        assert_eq!(newest(""), "");
    }

    #[test]
    fn percentages_and_shares_are_read() {
        for (text, expected) in [
            ("shards:  25% Completed | 1/4", Some(25.0)),
            ("at 12.5 %", Some(12.5)),
            ("100%|███|", Some(100.0)),
            ("no number: %d, then 7%", Some(7.0)),
            ("250%", None),
            ("1.2.3%", None),
            ("%", None),
            ("", None),
        ] {
            assert_eq!(percent(text), expected, "{text}");
        }
        for (text, expected) in [
            ("Download: [1/2] -- ETA", Some(50.0)),
            ("Download: [3/2]", None),
            ("Download: [1/0]", None),
            ("Download: [99999999999/2]", None),
            ("nothing", None),
        ] {
            assert_eq!(share(text, "Download: ["), expected, "{text}");
        }
    }
}
