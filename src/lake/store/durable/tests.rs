use super::*;
use futures::TryStreamExt;
use object_store::{ObjectStoreExt, UpdateVersion};
use proptest::prelude::*;

/// A store in `dir/lake` that notes what it forced; a path that contains `broken` cannot be forced.
fn watched(dir: &Path) -> (DurableLocal, Arc<Mutex<Vec<String>>>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let (noted, base) = (Arc::clone(&log), dir.canonicalize().unwrap());
    let store = DurableLocal::with_force(
        &dir.join("lake"),
        Box::new(move |path| {
            let name = path.strip_prefix(&base).unwrap().to_string_lossy().into_owned();
            // A staged file shows up without its random number.
            let name = name.split_once('#').map(|(name, _)| format!("{name}#")).unwrap_or(name);
            let broken = name.contains("broken");
            noted.lock().push(name);
            if broken { Err(io::Error::other("bad disk")) } else { File::open(path)?.sync_all() }
        }),
    )
    .unwrap();
    (store, log)
}

fn create() -> PutOptions {
    PutOptions { mode: PutMode::Create, ..PutOptions::default() }
}

async fn read(store: &DurableLocal, path: &str) -> Vec<u8> {
    store.get(&path.into()).await.unwrap().bytes().await.unwrap().to_vec()
}

async fn listed(store: &DurableLocal) -> Vec<String> {
    let mut names: Vec<String> = store.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
    names.sort();
    names
}

#[tokio::test]
async fn bytes_are_forced_before_the_name_and_new_folders_before_both() {
    let dir = tempfile::tempdir().unwrap();
    let (store, log) = watched(dir.path());
    assert_eq!(log.lock().split_off(0), [""], "the lake's folder is forced into its parent");

    store.put(&"a/b/x".into(), "1".into()).await.unwrap();
    assert_eq!(log.lock().split_off(0), ["lake", "lake/a", "lake/a/b/x#", "lake/a/b"]);

    store.put_opts(&"a/b/y".into(), "2".into(), create()).await.unwrap();
    assert_eq!(log.lock().split_off(0), ["lake/a/b/y#", "lake/a/b"]);

    let mut upload = store.put_multipart(&"a/c/z".into()).await.unwrap();
    upload.put_part("3".into()).await.unwrap();
    upload.complete().await.unwrap();
    assert_eq!(log.lock().split_off(0), ["lake/a", "lake/a/c/z#", "lake/a/c"]);

    store.copy(&"a/b/x".into(), &"d/x".into()).await.unwrap();
    assert_eq!(log.lock().split_off(0), ["lake", "lake/d/x", "lake/d"]);

    store.rename(&"d/x".into(), &"a/x".into()).await.unwrap();
    assert_eq!(log.lock().split_off(0), ["lake/a/x", "lake/a", "lake/d"]);

    store.delete(&"a/x".into()).await.unwrap();
    assert!(log.lock().is_empty());
    assert_eq!(listed(&store).await, ["a/b/x", "a/b/y", "a/c/z"]);
}

#[tokio::test]
async fn a_file_that_cannot_be_forced_is_never_published() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _log) = watched(dir.path());
    for options in [PutOptions::default(), create()] {
        let error = store.put_opts(&"t/broken".into(), "1".into(), options).await.unwrap_err();
        assert!(error.to_string().contains("bad disk"), "{error}");
    }
    assert!(listed(&store).await.is_empty());
    assert_eq!(std::fs::read_dir(store.root().join("t")).unwrap().count(), 0, "no staged file is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_creators_one_wins_and_its_bytes_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = DurableLocal::open_or_create(dir.path()).unwrap();
    let tries = (0..32).map(|n: u32| {
        let store = store.clone();
        crate::task::spawn("creator", async move {
            (n, store.put_opts(&"deep/er/x".into(), n.to_string().into(), create()).await)
        })
    });
    let mut winners = Vec::new();
    for done in futures::future::join_all(tries).await {
        match done.unwrap() {
            (n, Ok(_)) => winners.push(n.to_string()),
            (_, Err(object_store::Error::AlreadyExists { .. })) => {}
            (_, Err(other)) => panic!("{other}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(read(&store, "deep/er/x").await, winners[0].as_bytes());
    assert_eq!(listed(&store).await, ["deep/er/x"]);
}

#[tokio::test]
async fn what_a_folder_cannot_do_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = DurableLocal::open_or_create(dir.path()).unwrap();
    let put = store.put(&"x".into(), "1".into()).await.unwrap();
    let update = PutMode::Update(UpdateVersion { e_tag: put.e_tag, version: None });
    let options = PutOptions { mode: update, ..PutOptions::default() };
    let error = store.put_opts(&"x".into(), "2".into(), options).await.unwrap_err();
    assert!(matches!(error, object_store::Error::NotImplemented { .. }), "{error}");
    assert_eq!(read(&store, "x").await, b"1");
    let error = store.copy_if_not_exists(&"x".into(), &"x".into()).await.unwrap_err();
    assert!(matches!(error, object_store::Error::AlreadyExists { .. }), "{error}");
    let error = store.get(&"y".into()).await.unwrap_err();
    assert!(matches!(error, object_store::Error::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn a_folder_removed_behind_our_back_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = DurableLocal::open_or_create(dir.path()).unwrap();
    store.put(&"a/b/x".into(), "1".into()).await.unwrap();
    std::fs::remove_dir_all(dir.path().join("a")).unwrap();
    store.put(&"a/b/x".into(), "2".into()).await.unwrap();
    assert_eq!(read(&store, "a/b/x").await, b"2");
}

#[tokio::test]
async fn an_upload_dropped_or_aborted_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = DurableLocal::open_or_create(dir.path()).unwrap();
    let mut aborted = store.put_multipart(&"x".into()).await.unwrap();
    aborted.put_part("1".into()).await.unwrap();
    aborted.abort().await.unwrap();
    aborted.complete().await.unwrap_err();
    aborted.put_part("2".into()).await.unwrap_err();
    let mut dropped = store.put_multipart(&"y".into()).await.unwrap();
    dropped.put_part("1".into()).await.unwrap();
    drop(dropped);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Parts awaited in any order give the same object as one PUT, with the tag a reader sees.
    #[test]
    fn parts_make_up_the_whole(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..6), backwards: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let store = DurableLocal::open_or_create(dir.path()).unwrap();
            let mut upload = store.put_multipart(&"x y/z=1".into()).await.unwrap();
            let mut sent: Vec<_> = parts.iter().map(|part| upload.put_part(part.clone().into())).collect();
            if backwards {
                sent.reverse();
            }
            for part in sent {
                part.await.unwrap();
            }
            let done = upload.complete().await.unwrap();
            prop_assert_eq!(read(&store, "x y/z=1").await, parts.concat());
            prop_assert_eq!(done.e_tag, store.head(&"x y/z=1".into()).await.unwrap().e_tag);
            let put = store.put(&"one".into(), parts.concat().into()).await.unwrap();
            prop_assert_eq!(put.e_tag, store.head(&"one".into()).await.unwrap().e_tag);
            Ok(())
        })?;
    }
}

#[test]
fn what_is_staged_is_known_by_its_name() {
    let staged = staged_path(Path::new("/lake/public/t/a.parquet"));
    assert!(is_staged(staged.file_name().unwrap()), "{}", staged.display());
    for other in ["a.parquet", "a#", "#1", "a#-1", "a#1.json"] {
        assert!(!is_staged(OsStr::new(other)), "{other}");
    }
}

#[tokio::test]
async fn what_is_newer_in_a_log_is_told_in_order_as_by_the_library() {
    let dir = tempfile::tempdir().unwrap();
    let store = DurableLocal::open_or_create(dir.path()).unwrap();
    let log = ObjectPath::from("public/t/_delta_log");
    let newer = async |offset: &str| -> Vec<ObjectMeta> {
        store.list_with_offset(Some(&log), &log.clone().join(offset)).try_collect().await.unwrap()
    };
    assert!(newer("0").await.is_empty(), "there is no such folder");
    for name in ["00000003.json", "00000001.json", "00000002.json", "00000002.checkpoint.parquet", "_last_checkpoint"] {
        store.put(&log.clone().join(name), PutPayload::from(name.to_owned())).await.unwrap();
    }
    std::fs::write(dir.path().join("public/t/_delta_log/00000009.json#12"), "staged").unwrap();
    for offset in ["0", "00000001", "00000001.json", "00000002.json", "00000003", "00000009", "_last_checkpoint"] {
        let offset_path = log.clone().join(offset);
        let (prefix, after) = (log.clone(), offset_path.clone());
        let theirs = store.sorted(move |files| files.list_with_offset(Some(&prefix), &after));
        assert_eq!(newer(offset).await, theirs.try_collect::<Vec<_>>().await.unwrap(), "{offset}");
    }
    assert_eq!(newer("0").await.len(), 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Asked for by name or listed: the entries, checkpoints and checksums from a version on are the same.
    #[test]
    fn what_follows_a_version_is_found_by_name_as_by_listing(
        first in 0u64..12, entries in 0u64..12, others in prop::collection::vec((0u64..24, 0usize..4), 0..6), last in prop::option::of(0u64..24),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let touch = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        (first..first + entries).for_each(|version| touch(&format!("{version:020}.json"), "entry"));
        for (version, kind) in others.into_iter().filter(|(version, _)| (first..first + entries).contains(version)) {
            let kinds = ["checkpoint.parquet", "crc", "json#17", "checkpoint.0000000001.0000000002.parquet"];
            touch(&format!("{version:020}.{}", kinds[kind]), "beside");
        }
        if let Some(version) = last {
            touch("_last_checkpoint", &format!("{{\"version\":{version},\"size\":3}}"));
        }
        let all = || newer_in(dir.path(), None).unwrap().into_iter().map(|(name, _)| name);
        for version in 0..25u64 {
            let after = format!("{version:020}");
            let mut by_name: Vec<String> = newer_in(dir.path(), Some(&after)).unwrap().into_iter().map(|found| found.0).collect();
            let mut listed: Vec<String> = all().filter(|name| *name > after).collect();
            let hinted = last.filter(|last| *last >= version);
            if hinted.is_none_or(|last| listed.contains(&format!("{last:020}.checkpoint.parquet"))) {
                // Only these can be of use to who has the entries and no word of another checkpoint.
                by_name.retain(|name| !name.contains("0000000001.") && name != "_last_checkpoint");
                listed.retain(|name| !name.contains("0000000001.") && name != "_last_checkpoint");
            }
            by_name.sort();
            listed.sort();
            prop_assert_eq!(by_name, listed, "from {}", version);
        }
    }
}
