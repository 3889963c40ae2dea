//! Staged files that a killed process left in a folder: invisible to every reader, but they take space for ever.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::durable::is_staged;

/// The times of files are coarser than the clock: by a tick of the kernel, by two seconds on some file systems.
const COARSE: Duration = Duration::from_secs(2);

/// Removes the staged files in `folder` and below it that were last written before `before`; how many there were.
/// A missing folder has none. Links are not followed.
pub(super) fn sweep(folder: &Path, before: SystemTime) -> io::Result<usize> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            removed += sweep(&entry.path(), before)?;
        } else if kind.is_file() && is_staged(&entry.file_name()) {
            match remove_old(&entry.path(), before) {
                Ok(done) => removed += usize::from(done),
                // Published meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(removed)
}

fn remove_old(file: &Path, before: SystemTime) -> io::Result<bool> {
    let old = fs::metadata(file)?.modified()? + COARSE < before;
    if old {
        fs::remove_file(file)?;
    }
    Ok(old)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn only_old_files_with_a_staged_name_go() {
        let dir = tempfile::tempdir().unwrap();
        let began = SystemTime::now();
        let file = |path: &str, age_s: u64| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = File::create(&path).unwrap();
            file.set_modified(began - Duration::from_secs(age_s)).unwrap();
            path
        };
        let gone = [file("t/a.parquet#17", 60), file("t/_delta_log/0.json#18446744073709551615", 3)];
        let kept = [
            file("t/a.parquet", 60),
            file("t/b.parquet#18", 0),
            file("t/c#x1", 60),
            file("t/#19", 60),
            file("t/d#", 60),
            file("t/day#20/e.parquet", 60),
        ];
        std::os::unix::fs::symlink(dir.path(), dir.path().join("t/loop")).unwrap();
        assert_eq!(sweep(dir.path(), began).unwrap(), gone.len());
        assert!(gone.iter().all(|path| !path.exists()));
        assert!(kept.iter().all(|path| path.exists()));
        assert_eq!(sweep(&dir.path().join("nowhere"), began).unwrap(), 0);
    }
}
