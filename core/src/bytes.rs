//! Numbers of bytes as people read them.

/// `0 B`, `1.5 KiB`, `16.0 GiB`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a size for people")]
pub fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = "B";
    while value >= 1024.0 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in [(0, "0 B"), (1_023, "1023 B"), (1_536, "1.5 KiB"), (16 << 30, "16.0 GiB")] {
            assert_eq!(human(bytes), text);
        }
    }
}
