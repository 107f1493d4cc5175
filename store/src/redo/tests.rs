//! The log of batches as files: what is found again, what a torn or damaged file costs, what may go.

use std::fs;

use super::*;

fn writes(n: u64) -> Writes {
    [(n.to_be_bytes().to_vec(), Some(vec![7; 20]))].into()
}

/// A log whose files start with the numbers `starts`, up to `last`.
fn log(dir: &Path, starts: &[u64], last: u64) {
    let mut redo = Redo::start(dir, starts[0]).unwrap();
    for seq in starts[0]..=last {
        if starts.contains(&seq) {
            redo.rotate(seq).unwrap();
        }
        redo.append(seq, &writes(seq)).unwrap();
    }
    redo.sync().unwrap();
}

fn replayed(survey: &Survey, after: u64, last: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    survey
        .replay(after, last, |seq, found| {
            assert_eq!(found, writes(seq));
            seen.push(seq);
            io::Result::Ok(())
        })
        .unwrap();
    seen
}

#[test]
fn batches_come_back_over_files() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), &[1, 5, 9], 12);
    let survey = Survey::read(dir.path()).unwrap();
    assert_eq!((survey.files.len(), survey.last(), survey.flaws.len()), (3, 12, 0));
    assert!(survey.covers(0, 12) && survey.covers(4, 5) && survey.covers(12, 12) && survey.covers(40, 3));
    assert!(!survey.covers(0, 13) && !survey.covers(12, 13));
    assert_eq!(replayed(&survey, 0, u64::MAX), (1..=12).collect::<Vec<_>>());
    assert_eq!(replayed(&survey, 6, 10), [7, 8, 9, 10]);
    assert!(Survey::read(&dir.path().join("missing")).unwrap().covers(0, 0));
}

#[test]
fn a_torn_end_is_left_and_the_next_file_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), &[1], 6);
    let path = dir.path().join(format!("{:020}.redo", 1));
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    let survey = Survey::read(dir.path()).unwrap();
    assert_eq!((survey.last(), survey.flaws.len()), (5, 1));
    log(dir.path(), &[6], 8);
    let survey = Survey::read(dir.path()).unwrap();
    assert!(survey.covers(0, 8));
    assert_eq!(replayed(&survey, 0, 8), (1..=8).collect::<Vec<_>>());
}

#[test]
fn damage_in_the_middle_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), &[1, 4], 8);
    let path = dir.path().join(format!("{:020}.redo", 4));
    let mut bytes = fs::read(&path).unwrap();
    // The second frame: behind the magic and the first one.
    let frame = (bytes.len() - MAGIC.len()) / 5;
    bytes[MAGIC.len() + frame + frame / 2] ^= 1;
    fs::write(&path, bytes).unwrap();
    let survey = Survey::read(dir.path()).unwrap();
    assert!(survey.covers(0, 4) && survey.covers(5, 8));
    assert!(!survey.covers(4, 5) && !survey.covers(0, 8));
    assert_eq!(replayed(&survey, 0, 8), [1, 2, 3, 4, 6, 7, 8]);
    assert_eq!((survey.last(), survey.flaws.len()), (8, 1));
}

#[test]
fn a_damaged_magic_costs_no_batch() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), &[1], 3);
    let path = dir.path().join(format!("{:020}.redo", 1));
    let mut bytes = fs::read(&path).unwrap();
    bytes[7] ^= 0x80;
    fs::write(&path, bytes).unwrap();
    let survey = Survey::read(dir.path()).unwrap();
    assert!(survey.covers(0, 3));
    assert_eq!(survey.flaws.len(), 1);
}

#[test]
fn only_what_is_covered_goes() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), &[1, 5, 9], 12);
    let starts = || survey::files(dir.path()).unwrap().iter().map(|(first, _)| *first).collect::<Vec<_>>();
    prune(dir.path(), 3).unwrap();
    assert_eq!(starts(), [1, 5, 9]);
    prune(dir.path(), 4).unwrap();
    assert_eq!(starts(), [5, 9]);
    prune(dir.path(), 100).unwrap();
    assert_eq!(starts(), [9]);
    assert!(Survey::read(dir.path()).unwrap().covers(8, 12));
}
