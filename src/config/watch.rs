//! Notices that files of a folder changed.
//!
//! By looking at them, every half second: network file systems and containers may send no events, editors truncate,
//! write and rename in any order, and what counts in the end is the content. What changed is reported once it has
//! stood still for [`SETTLE`], and only if the content is another; a project has some dozens of small files.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Pause between looks.
const LOOK: Duration = Duration::from_millis(500);
/// Files must stand still for so long.
const SETTLE: Duration = Duration::from_millis(200);

/// Length and time of change of each file.
type Stat = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;
/// Content of each file.
type Content = BTreeMap<PathBuf, Vec<u8>>;

/// Watches some files, and the files of some folders, not those of folders inside.
pub struct Watch {
    folders: Vec<PathBuf>,
    stat: Stat,
    content: Content,
}

impl Watch {
    /// Watches `folders` (or single files) from now on; they need not exist.
    pub fn new(folders: Vec<PathBuf>) -> Self {
        let mut watch = Self { folders, stat: Stat::new(), content: Content::new() };
        watch.stat = watch.stat();
        watch.content = watch.content();
        watch
    }

    /// Waits until the files' names or contents are other than they were when it last returned.
    pub async fn changed(&mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let mut stat = self.stat();
            while stat != self.stat {
                tokio::time::sleep(SETTLE).await;
                let again = self.stat();
                if again == stat {
                    if self.take(stat) {
                        return;
                    }
                    break;
                }
                stat = again;
            }
        }
    }

    /// Takes over how the files stand now; true if their content is another.
    fn take(&mut self, stat: Stat) -> bool {
        self.stat = stat;
        let content = self.content();
        let changed = content != self.content;
        self.content = content;
        changed
    }

    fn files(&self) -> impl Iterator<Item = PathBuf> {
        let entries = self.folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
        let own = self.folders.iter().filter(|path| path.is_file()).cloned();
        entries.filter_map(|entry| Some(entry.ok()?.path())).chain(own)
    }

    fn stat(&self) -> Stat {
        let stat = |path: PathBuf| {
            let found = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
            Some((path, (found.len(), found.modified().ok())))
        };
        self.files().filter_map(stat).collect()
    }

    fn content(&self) -> Content {
        self.files().filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(watch: &mut Watch) -> bool {
        let stat = watch.stat();
        stat != watch.stat && watch.take(stat)
    }

    #[test]
    fn a_change_is_reported_once_whatever_way_it_was_made() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        let mut watch = Watch::new(vec![dir.path().to_owned(), dir.path().join("not-there")]);
        assert!(!looks(&mut watch), "nothing happened");
        std::fs::write(&file, "one").unwrap();
        assert!(looks(&mut watch), "a new file");
        assert!(!looks(&mut watch), "and no more than once");
        // The dance of an editor: write another file, move it over.
        std::fs::write(dir.path().join("a.toml~"), "three").unwrap();
        std::fs::rename(dir.path().join("a.toml~"), &file).unwrap();
        assert!(looks(&mut watch), "renamed over");
        std::fs::write(&file, "three").unwrap();
        assert!(!looks(&mut watch), "saved as it was");
        std::fs::remove_file(&file).unwrap();
        assert!(looks(&mut watch), "deleted");
    }

    #[tokio::test]
    async fn a_waiter_is_woken() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(vec![dir.path().to_owned()]);
        std::fs::write(dir.path().join("a.toml"), "one").unwrap();
        tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.unwrap();
    }
}
