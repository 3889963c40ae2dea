//! Which files are merged: decided from their sizes and ages alone.
//!
//! A partition's files are in classes, each of which holds files of up to eight times the rows of the one before. Eight of
//! one class become one of the next, so a row is written again once per class. A partition to which nothing comes any more
//! is merged once more, whatever its classes, except where that would write much again for little.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::DataFile;

/// Files of a class before they are merged, and how many times larger each class is than the one before.
const FACTOR: u64 = 8;
/// The files of a merge are no larger together, in bytes.
pub const TARGET_BYTES: u64 = 128 << 20;
/// A file of so many bytes is left as it is.
const FULL_BYTES: u64 = TARGET_BYTES / 2;
/// Most files of one merge.
const MOST_FILES: usize = 64;
/// Younger files are left alone: a commit may still be looked for.
const SETTLED: TimeDelta = TimeDelta::minutes(2);
/// A partition is quiet when its newest file is so old.
const QUIET: TimeDelta = TimeDelta::hours(1);

/// When files are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// When enough of them have gathered.
    Gathered,
    /// Whenever two can be one: somebody asked.
    Any,
}

/// The groups of files that are to be one file each, those with most files first.
pub fn plan(files: &[DataFile], now: DateTime<Utc>, need: Need) -> Vec<Vec<DataFile>> {
    let mut partitions: BTreeMap<&str, Vec<&DataFile>> = BTreeMap::new();
    for file in files {
        partitions.entry(&file.partition).or_default().push(file);
    }
    let mut groups: Vec<Vec<DataFile>> = Vec::new();
    for files in partitions.into_values() {
        let newest = files.iter().map(|file| file.modified_at).max().unwrap_or(now);
        let small = files.into_iter().filter(|file| file.bytes < FULL_BYTES);
        match need {
            Need::Any => groups.extend(all(small.collect())),
            Need::Gathered if now - newest >= QUIET => groups.extend(all(without_large(small.collect()))),
            Need::Gathered => groups.extend(gathered(small.filter(|file| now - file.modified_at >= SETTLED))),
        }
    }
    groups.sort_by_key(|files| std::cmp::Reverse(files.len()));
    groups
}

/// The class of a file.
fn class(file: &DataFile) -> u32 {
    file.rows.max(1).ilog(FACTOR)
}

fn gathered<'a>(files: impl Iterator<Item = &'a DataFile>) -> Vec<Vec<DataFile>> {
    let mut classes: BTreeMap<u32, Vec<&DataFile>> = BTreeMap::new();
    for file in files {
        classes.entry(class(file)).or_default().push(file);
    }
    let full = classes.into_values().filter(|files| files.len() as u64 >= FACTOR);
    // What is left over after the first group waits for others.
    full.filter_map(|mut files| {
        files.sort_by(|a, b| (a.modified_at, &a.path).cmp(&(b.modified_at, &b.path)));
        cut(&files).into_iter().next()
    })
    .collect()
}

fn all(mut files: Vec<&DataFile>) -> Vec<Vec<DataFile>> {
    files.sort_by(|a, b| (a.rows, &a.path).cmp(&(b.rows, &b.path)));
    cut(&files)
}

/// The smallest files, up to the first that is much larger than all of them together.
fn without_large(mut files: Vec<&DataFile>) -> Vec<&DataFile> {
    files.sort_by_key(|file| file.rows);
    let mut rows = 0;
    let end = files.iter().position(|file| {
        let is_large = rows > 0 && file.rows > rows * FACTOR;
        rows += file.rows;
        is_large
    });
    files.truncate(end.unwrap_or(files.len()));
    files
}

/// Pieces of two files or more, each of which becomes one file.
fn cut(files: &[&DataFile]) -> Vec<Vec<DataFile>> {
    let mut pieces: Vec<Vec<DataFile>> = Vec::new();
    let mut bytes = TARGET_BYTES;
    for file in files {
        match pieces.last_mut() {
            Some(piece) if bytes + file.bytes <= TARGET_BYTES && piece.len() < MOST_FILES => {
                bytes += file.bytes;
                piece.push((*file).clone());
            }
            _ => {
                bytes = file.bytes;
                pieces.push(vec![(*file).clone()]);
            }
        }
    }
    pieces.retain(|piece| piece.len() > 1);
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(number: usize, rows: u64, bytes: u64, seconds_ago: i64, now: DateTime<Utc>) -> DataFile {
        DataFile {
            path: format!("{number:06}"),
            partition: "_day=2026-01-01".to_owned(),
            rows,
            bytes,
            modified_at: now - TimeDelta::seconds(seconds_ago),
        }
    }

    fn merged(groups: &[Vec<DataFile>]) -> Vec<Vec<&str>> {
        groups.iter().map(|files| files.iter().map(|file| file.path.as_str()).collect()).collect()
    }

    #[test]
    fn eight_files_of_a_class_become_one_and_fewer_or_younger_ones_wait() {
        let now = Utc::now();
        let files: Vec<DataFile> = (0..9).map(|n| file(n, 100, 10_000, 600 - n as i64, now)).collect();
        assert_eq!(plan(&files[..7], now, Need::Gathered), Vec::<Vec<DataFile>>::new());
        assert_eq!(plan(&files, now, Need::Gathered)[0].len(), 9);
        let mut young = files.clone();
        young[7].modified_at = now;
        young[8].modified_at = now;
        assert!(plan(&young, now, Need::Gathered).is_empty());
        assert_eq!(plan(&young, now, Need::Any)[0].len(), 9);
        let mut elsewhere = files.clone();
        elsewhere[0].partition = "_day=2026-01-02".to_owned();
        elsewhere[1].partition = "_day=2026-01-02".to_owned();
        assert!(plan(&elsewhere, now, Need::Gathered).is_empty());
        assert_eq!(plan(&elsewhere, now, Need::Any).len(), 2);
    }

    #[test]
    fn a_quiet_partition_is_merged_but_not_a_large_file_for_a_small_one() {
        let now = Utc::now();
        let files = [file(0, 10, 1_000, 5_000, now), file(1, 70, 7_000, 5_000, now), file(2, 600, 60_000, 5_000, now)];
        assert_eq!(merged(&plan(&files, now, Need::Gathered)), [["000000", "000001", "000002"]]);
        let late = [files[0].clone(), files[1].clone(), file(3, 900_000, 40 << 20, 90_000, now)];
        assert_eq!(merged(&plan(&late, now, Need::Gathered)), [["000000", "000001"]]);
        assert!(plan(&late[1..], now, Need::Gathered).is_empty());
        assert_eq!(plan(&late[1..], now, Need::Any).len(), 1);
    }

    #[test]
    fn no_merge_makes_more_than_a_file_and_full_files_are_left() {
        let now = Utc::now();
        let files: Vec<DataFile> = (0..12).map(|n| file(n, 1_000_000, 30 << 20, 600 - n as i64, now)).collect();
        let groups = plan(&files, now, Need::Gathered);
        assert_eq!(merged(&groups), [["000000", "000001", "000002", "000003"]]);
        let full: Vec<DataFile> = (0..12).map(|n| file(n, 1_000_000, 64 << 20, 9_000, now)).collect();
        assert!(plan(&full, now, Need::Any).is_empty());
    }

    /// Plays commits and merges, as care would do them.
    fn play(rows_per_commit: &[u64], bytes_per_row: u64) -> (Vec<DataFile>, f64) {
        let (mut now, mut files, mut number) = (DateTime::UNIX_EPOCH, Vec::<DataFile>::new(), 0);
        let (mut ingested, mut rewritten) = (0, 0);
        let mut care = |files: &mut Vec<DataFile>, now: DateTime<Utc>, number: &mut usize| {
            while let Some(group) = plan(files, now, Need::Gathered).into_iter().next() {
                files.retain(|file| !group.contains(file));
                let (rows, bytes) = group.iter().fold((0, 0), |sum, file| (sum.0 + file.rows, sum.1 + file.bytes));
                rewritten += rows;
                *number += 1;
                files.push(file(*number, rows, bytes, 0, now));
            }
        };
        for rows in rows_per_commit {
            (now, number) = (now + TimeDelta::seconds(5), number + 1);
            ingested += rows;
            files.push(file(number, *rows, rows * bytes_per_row, 0, now));
            care(&mut files, now, &mut number);
        }
        care(&mut files, now + TimeDelta::hours(2), &mut number);
        (files, rewritten as f64 / ingested as f64)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_day_of_commits_becomes_few_files_and_no_row_is_written_often(
            rows in prop::collection::vec(20u64..600, 1_000..6_000),
            bytes_per_row in 20u64..400,
        ) {
            let (files, rewritten) = play(&rows, bytes_per_row);
            prop_assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), rows.iter().sum::<u64>());
            let bytes: u64 = files.iter().map(|file| file.bytes).sum();
            prop_assert!(files.len() as u64 <= 3 + bytes / FULL_BYTES, "{} files of {bytes} bytes", files.len());
            prop_assert!(rewritten <= 6.0, "{rewritten}");
        }
    }
}
