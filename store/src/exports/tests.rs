//! Which exports stay and how they are named.

use super::*;

const NOW: WallTime = WallTime(1_753_180_200_000); // 2025-07-22T10:30:00Z

fn at(ms_ago: u64, number: u64) -> Listed {
    let path = own_path(Path::new("/"), number, WallTime(NOW.0 - ms_ago)).unwrap();
    listed(path).unwrap()
}

#[test]
fn names_tell_number_and_day() {
    let export = at(0, 42);
    assert_eq!(export.path, Path::new("/20250722T103000Z-00000000000000000042.export"));
    assert_eq!((export.seq, export.day.as_str()), (42, "20250722"));
    for other in [
        "x.export",
        "20250722T103000Z-4.export.unfinished",
        "20250722T103000Z.export",
        "-.export",
        "1-x.export",
    ] {
        assert_eq!(listed(PathBuf::from(other)), None, "{other}");
    }
}

#[test]
fn the_newest_and_one_a_day_stay() {
    // Every 5 minutes for 10 days, newest first.
    let every = 5 * 60_000;
    let count = 10 * DAY_MS / every;
    let exports = (0..count).map(|n| at(n * every, count - n)).collect::<Vec<_>>();
    let keep = kept(&exports, NOW);
    assert_eq!(keep.len(), KEEP_NEWEST + 6);
    assert!(exports.iter().take(KEEP_NEWEST).all(|export| keep.contains(&export.path)));
    let days = exports.iter().skip(KEEP_NEWEST).filter(|export| keep.contains(&export.path));
    let days = days.map(|export| export.path.to_str().unwrap()[1..17].to_owned()).collect::<Vec<_>>();
    assert_eq!(days, ["21", "20", "19", "18", "17", "16"].map(|day| format!("202507{day}T235500Z")));
    assert!(kept(&[], NOW).is_empty());
}
