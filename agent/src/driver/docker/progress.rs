//! How far a pull has got, from the lines that the Engine writes meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use nebula_core::clock::Tick;

/// The rate is measured over at least this long.
const RATE_OVER: Duration = Duration::from_secs(1);
/// Before the rate is good enough to say how long it still takes.
const RATE_AFTER: Duration = Duration::from_secs(5);
/// The weight of the newest measurement.
const RATE_WEIGHT: f64 = 0.3;

/// One line of the Engine.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Line<'a> {
    pub(super) id: &'a str,
    pub(super) status: &'a str,
    /// In bytes.
    pub(super) current: Option<u64>,
    pub(super) total: Option<u64>,
}

/// A pull under way.
#[derive(Debug)]
pub(super) struct Pull {
    layers: BTreeMap<String, Layer>,
    started: Tick,
    /// When the rate was measured last, and how many bytes there were.
    mark: (Tick, u64),
    /// In bytes a second.
    rate: Option<f64>,
}

#[derive(Debug, Default)]
struct Layer {
    stage: Stage,
    got: u64,
    size: Option<u64>,
    unpacked: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Waiting,
    Downloading,
    Downloaded,
    Unpacking,
    Done,
}

impl Pull {
    pub(super) fn begin(now: Tick) -> Self {
        Self { layers: BTreeMap::new(), started: now, mark: (now, 0), rate: None }
    }

    /// Takes a line. Whether anything moved by it.
    pub(super) fn take(&mut self, line: Line<'_>, now: Tick) -> bool {
        let stage = match line.status {
            "Pulling fs layer" | "Waiting" => Stage::Waiting,
            "Downloading" => Stage::Downloading,
            "Verifying Checksum" | "Download complete" => Stage::Downloaded,
            "Extracting" => Stage::Unpacking,
            "Pull complete" | "Already exists" => Stage::Done,
            _ => return false,
        };
        let is_new = !self.layers.contains_key(line.id);
        let layer = self.layers.entry(line.id.to_owned()).or_default();
        let moved = layer.take(stage, line) || is_new;
        self.measure(now);
        moved
    }

    fn measure(&mut self, now: Tick) {
        let (at, before) = self.mark;
        let (over, got) = (now.since(at), self.got());
        if over < RATE_OVER {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
        let newest = got.saturating_sub(before) as f64 / over.as_secs_f64();
        self.rate = Some(self.rate.map_or(newest, |rate| rate + RATE_WEIGHT * (newest - rate)));
        self.mark = (now, got);
    }

    /// Bytes that have come.
    fn got(&self) -> u64 {
        self.layers.values().map(|layer| layer.got).sum()
    }

    /// Bytes in all as far as they are known, and whether they all are.
    fn size(&self) -> (u64, bool) {
        let size = self.layers.values().filter_map(|layer| layer.size).sum();
        (size, self.layers.values().all(|layer| layer.size.is_some() || layer.stage >= Stage::Downloaded))
    }

    /// Nothing is known of what has to come: the Engine first tells of layers that it has already.
    fn is_unknown(&self) -> bool {
        self.layers.values().all(|layer| layer.stage == Stage::Done && layer.size.is_none())
    }

    /// All bytes have come.
    pub(super) fn is_unpacking(&self) -> bool {
        !self.is_unknown() && self.count(Stage::Downloaded) == self.layers.len()
    }

    fn count(&self, at_least: Stage) -> usize {
        self.layers.values().filter(|layer| layer.stage >= at_least).count()
    }

    /// The share that has come, from 0 to 100.
    pub(super) fn percent(&self) -> Option<f32> {
        if self.is_unknown() {
            return None;
        }
        let (size, is_all) = self.size();
        if is_all && size > 0 {
            return Some(percent(self.got(), size));
        }
        let shares: f32 = self.layers.values().map(Layer::percent).sum();
        #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
        let mean = shares / self.layers.len() as f32;
        Some(mean)
    }

    /// One line for people.
    pub(super) fn words(&self, image: &str, now: Tick) -> String {
        let all = self.layers.len();
        let (size, is_all) = self.size();
        let mut text = format!("pulling image {image}");
        if self.is_unknown() {
            return text;
        }
        if self.is_unpacking() {
            return format!("{text}: unpacking, {} of {all} layers", self.count(Stage::Done));
        }
        text.push_str(&format!(": {} of {all} layers", self.count(Stage::Downloaded)));
        if size > 0 {
            let (unit, name) = unit(size);
            let more = if is_all { "" } else { "more than " };
            text.push_str(&format!(
                ", {} of {more}{} {name}",
                in_units(self.got(), unit),
                in_units(size, unit)
            ));
        }
        if let Some(left) = self.left(now) {
            text.push_str(", ");
            text.push_str(&left);
        }
        text
    }

    /// How long it still takes, in words.
    fn left(&self, now: Tick) -> Option<String> {
        let (size, is_all) = self.size();
        let rate = self.rate.filter(|rate| *rate >= 1.0)?;
        if !is_all || now.since(self.started) < RATE_AFTER {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
        let seconds = size.saturating_sub(self.got()) as f64 / rate;
        let minutes = (seconds / 60.0).ceil();
        Some(match minutes {
            ..=1.0 => "less than a minute left".to_owned(),
            ..=90.0 => format!("about {minutes} min left"),
            _ => format!("about {} h left", (minutes / 60.0).round()),
        })
    }
}

impl Layer {
    fn take(&mut self, stage: Stage, line: Line<'_>) -> bool {
        let before = (self.stage, self.got, self.unpacked);
        self.stage = stage;
        match stage {
            Stage::Waiting => {}
            Stage::Downloading => {
                self.got = line.current.unwrap_or(self.got);
                self.size = line.total.filter(|total| *total > 0).or(self.size);
            }
            // Small layers come without a word about their size.
            Stage::Downloaded | Stage::Done => self.got = self.size.unwrap_or(self.got),
            Stage::Unpacking => {
                self.got = self.size.unwrap_or(self.got);
                self.unpacked = line.current.unwrap_or(self.unpacked);
            }
        }
        before != (self.stage, self.got, self.unpacked)
    }

    fn percent(&self) -> f32 {
        match (self.stage, self.size) {
            (Stage::Downloading, Some(size)) => percent(self.got, size),
            (Stage::Waiting | Stage::Downloading, _) => 0.0,
            _ => 100.0,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
fn percent(part: u64, whole: u64) -> f32 {
    (part as f32 / whole as f32 * 100.0).min(100.0)
}

fn unit(bytes: u64) -> (u64, &'static str) {
    match bytes {
        1_000_000_000.. => (1_000_000_000, "GB"),
        1_000_000.. => (1_000_000, "MB"),
        _ => (1_000, "kB"),
    }
}

/// With one digit after the point.
fn in_units(bytes: u64, unit: u64) -> String {
    let tenths = bytes * 10 / unit;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MB: u64 = 1_000_000;

    fn line<'a>(id: &'a str, status: &'a str, progress: Option<(u64, u64)>) -> Line<'a> {
        let (current, total) = progress.unzip();
        Line { id, status, current, total }
    }

    #[test]
    fn a_pull_from_its_beginning_to_its_end() {
        let mut pull = Pull::begin(Tick(0));
        let words = |pull: &Pull, now| (pull.percent().map(|p| p.round()), pull.words("x:1", Tick(now)));
        assert_eq!(words(&pull, 0), (None, "pulling image x:1".to_owned()));
        let steps: [(u64, Line<'_>, bool, Option<f32>, &str); 14] = [
            (0, line("1", "Pulling from library/x", None), false, None, "pulling image x:1"),
            (1, line("a", "Pulling fs layer", None), true, Some(0.0), "pulling image x:1: 0 of 1 layers"),
            (1, line("b", "Pulling fs layer", None), true, Some(0.0), "pulling image x:1: 0 of 2 layers"),
            (1, line("c", "Already exists", None), true, Some(33.0), "pulling image x:1: 1 of 3 layers"),
            (
                2_000,
                line("a", "Downloading", Some((100 * MB, 1_000 * MB))),
                true,
                Some(37.0),
                "pulling image x:1: 1 of 3 layers, 0.1 of more than 1.0 GB",
            ),
            (
                4_000,
                line("a", "Downloading", Some((100 * MB, 1_000 * MB))),
                false,
                Some(37.0),
                "pulling image x:1: 1 of 3 layers, 0.1 of more than 1.0 GB",
            ),
            (
                4_500,
                line("a", "Retrying in 5 seconds", None),
                false,
                Some(37.0),
                "pulling image x:1: 1 of 3 layers, 0.1 of more than 1.0 GB",
            ),
            (
                5_000,
                line("b", "Downloading", Some((0, 200 * MB))),
                true,
                Some(8.0),
                "pulling image x:1: 1 of 3 layers, 0.1 of 1.2 GB, less than a minute left",
            ),
            (
                15_000,
                line("a", "Downloading", Some((200 * MB, 1_000 * MB))),
                true,
                Some(17.0),
                "pulling image x:1: 1 of 3 layers, 0.2 of 1.2 GB, less than a minute left",
            ),
            (
                25_000,
                line("a", "Downloading", Some((210 * MB, 1_000 * MB))),
                true,
                Some(18.0),
                "pulling image x:1: 1 of 3 layers, 0.2 of 1.2 GB, about 2 min left",
            ),
            (
                30_000,
                line("a", "Verifying Checksum", None),
                true,
                Some(83.0),
                "pulling image x:1: 2 of 3 layers, 1.0 of 1.2 GB, less than a minute left",
            ),
            (
                31_000,
                line("b", "Download complete", None),
                true,
                Some(100.0),
                "pulling image x:1: unpacking, 1 of 3 layers",
            ),
            (
                32_000,
                line("a", "Extracting", Some((1, 1_000))),
                true,
                Some(100.0),
                "pulling image x:1: unpacking, 1 of 3 layers",
            ),
            (
                33_000,
                line("a", "Pull complete", None),
                true,
                Some(100.0),
                "pulling image x:1: unpacking, 2 of 3 layers",
            ),
        ];
        for (now, line, moves, percent, text) in steps {
            assert_eq!(pull.take(line, Tick(now)), moves, "{line:?}");
            assert_eq!(words(&pull, now), (percent, text.to_owned()), "{line:?}");
            assert_eq!(pull.is_unpacking(), text.contains("unpacking"), "{line:?}");
        }
    }

    #[test]
    fn layers_that_are_here_already_say_nothing_about_the_others() {
        let mut pull = Pull::begin(Tick(0));
        pull.take(line("a", "Already exists", None), Tick(0));
        assert_eq!((pull.percent(), pull.words("x", Tick(0)).as_str()), (None, "pulling image x"));
        pull.take(line("b", "Pulling fs layer", None), Tick(0));
        assert_eq!(pull.words("x", Tick(0)), "pulling image x: 1 of 2 layers");
    }

    #[test]
    fn long_waits_are_told_in_hours() {
        let mut pull = Pull::begin(Tick(0));
        pull.take(line("a", "Downloading", Some((0, 100_000 * MB))), Tick(0));
        pull.take(line("a", "Downloading", Some((10 * MB, 100_000 * MB))), Tick(10_000));
        assert_eq!(
            pull.words("x", Tick(10_000)),
            "pulling image x: 0 of 1 layers, 0.0 of 100.0 GB, about 28 h left"
        );
    }

    proptest! {
        #[test]
        fn whatever_the_engine_writes_the_share_is_one(
            lines in prop::collection::vec(
                ("[abc]", 0_usize..8, prop::option::of((any::<u32>(), any::<u32>())), 0_u64..100_000),
                0..50,
            )
        ) {
            const WORDS: [&str; 8] = ["Pulling fs layer", "Waiting", "Downloading", "Verifying Checksum",
                "Download complete", "Extracting", "Pull complete", "Retrying in 1 second"];
            let mut pull = Pull::begin(Tick(0));
            for (id, word, progress, now) in &lines {
                let progress = progress.map(|(current, total)| (u64::from(current), u64::from(total)));
                pull.take(line(id, WORDS[*word], progress), Tick(*now));
                if let Some(percent) = pull.percent() {
                    prop_assert!((0.0..=100.0).contains(&percent), "{percent}");
                }
                prop_assert!(pull.words("x", Tick(*now)).starts_with("pulling image x"));
            }
        }
    }
}
