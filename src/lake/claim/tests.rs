use std::path::Path;
use std::sync::atomic::Ordering;

use chrono::Utc;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use std::sync::Arc;

use super::register::Heartbeat;
use super::*;
use crate::lake::store::testing::{Moody, stores};
use crate::lake::{Lake, Location, S3Options, States};

fn memory() -> Stores {
    stores(Arc::new(InMemory::new()))
}

fn holder(host: &str) -> Holder {
    Holder { host: host.into(), address: Some("127.0.0.1:32010".into()), ..Holder::here(None, Utc::now()) }
}

fn alive(_: &Holder) -> Liveness {
    Liveness::Alive
}

fn dead(_: &Holder) -> Liveness {
    Liveness::Dead
}

fn elsewhere(_: &Holder) -> Liveness {
    Liveness::Elsewhere
}

/// A fifth of the real times: slow enough for a busy machine.
const QUICK: Tempo = Tempo {
    beat_every: Duration::from_millis(400),
    beat_timeout: Duration::from_millis(800),
    certain_for: Duration::from_millis(1600),
    silence: Duration::from_millis(2000),
    look_every: Duration::from_millis(200),
    watch_at_most: Duration::from_millis(12_000),
};

async fn take_as(stores: &Stores, host: &str, look: Look<'_>) -> Result<Claim> {
    take(stores, holder(host), &Shutdown::new(), look, QUICK).await
}

/// A claim whose process vanishes: it is neither released nor kept alive.
async fn vanished(stores: &Stores, host: &str) {
    Register::new(stores).put_writer(1, &holder(host)).await.unwrap();
    Register::new(stores).put_heartbeat(1, 7, false).await.unwrap();
}

async fn objects(stores: &Stores, folder: &str) -> usize {
    let prefix = format!("_millpond/{folder}").into();
    stores.data().list(Some(&prefix)).try_collect::<Vec<_>>().await.unwrap().len()
}

#[tokio::test]
async fn a_live_writer_is_named_and_a_released_one_is_followed_at_once() {
    let stores = memory();
    let first = take_as(&stores, "alpha", &alive).await.unwrap();
    assert_eq!(first.number(), 1);
    let error = take_as(&stores, "beta", &alive).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert_eq!(error.exit_code(), 1);
    for words in [format!("pid {}", std::process::id()), "host `alpha`".into(), "127.0.0.1:32010".into()] {
        assert!(error.message().contains(&words), "{error}");
    }
    assert!(error.hint_text().is_some());

    first.release().await;
    let begun = Instant::now();
    let second = take_as(&stores, "beta", &elsewhere).await.unwrap();
    assert_eq!(second.number(), 2);
    assert!(begun.elapsed() < QUICK.silence);
}

#[tokio::test]
async fn a_dead_writer_of_this_host_is_followed_at_once() {
    let stores = memory();
    vanished(&stores, "alpha").await;
    let begun = Instant::now();
    assert_eq!(take_as(&stores, "alpha", &dead).await.unwrap().number(), 2);
    assert!(begun.elapsed() < QUICK.silence);
}

#[tokio::test]
async fn a_silent_writer_elsewhere_is_followed_after_the_time_of_silence() {
    let stores = memory();
    vanished(&stores, "alpha").await;
    let begun = Instant::now();
    assert_eq!(take_as(&stores, "beta", &elsewhere).await.unwrap().number(), 2);
    assert!(begun.elapsed() >= QUICK.silence, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_beating_writer_elsewhere_is_refused() {
    let stores = memory();
    let _first = take_as(&stores, "alpha", &elsewhere).await.unwrap();
    let error = take_as(&stores, "beta", &elsewhere).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
}

#[tokio::test]
async fn a_claim_nobody_can_read_is_followed_only_when_silent() {
    let stores = memory();
    stores.commit().put(&format!("_millpond/writer/{:020}", 5).into(), "{".into()).await.unwrap();
    let begun = Instant::now();
    assert_eq!(take_as(&stores, "beta", &alive).await.unwrap().number(), 6);
    assert!(begun.elapsed() >= QUICK.silence);
}

#[tokio::test]
async fn a_store_that_is_down_is_no_proof_of_silence() {
    let store = Arc::new(Moody::default());
    let stores = stores(Arc::clone(&store) as _);
    vanished(&stores, "alpha").await;
    let outage = async {
        tokio::time::sleep(QUICK.look_every / 2).await;
        store.down.store(true, Ordering::SeqCst);
        tokio::time::sleep(2 * QUICK.silence).await;
        store.down.store(false, Ordering::SeqCst);
        Register::new(&stores).put_heartbeat(1, 8, false).await.unwrap();
    };
    let (taken, ()) = tokio::join!(take_as(&stores, "beta", &elsewhere), outage);
    assert_eq!(taken.unwrap_err().kind(), Kind::Refused);
}

#[tokio::test]
async fn waiting_ends_when_told() {
    let stores = memory();
    vanished(&stores, "alpha").await;
    let shutdown = Shutdown::new();
    let stop = async {
        tokio::time::sleep(QUICK.look_every).await;
        shutdown.cancel();
    };
    let (taken, ()) = tokio::join!(take(&stores, holder("beta"), &shutdown, &elsewhere, QUICK), stop);
    assert_eq!(taken.unwrap_err().kind(), Kind::Cancelled);
}

#[tokio::test]
async fn the_one_overtaken_learns_by_whom() {
    let stores = memory();
    let first = take_as(&stores, "alpha", &alive).await.unwrap();
    assert!(first.is_certain());
    let second = take_as(&stores, "beta", &dead).await.unwrap();
    let error = tokio::time::timeout(Duration::from_secs(30), first.lost()).await.unwrap();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.message().contains("host `beta`"), "{error}");
    assert!(!first.is_certain());
    // It wakes up and knows nothing yet: what it would write would end the one that writes now.
    let first = Arc::new(first);
    let (states, _) = States::open(&Lake::new(stores.clone()).claimed(&first), "states").await.unwrap();
    states.write(1, "of the first".into()).await.unwrap_err();
    assert!(States::open(&Lake::new(stores.clone()), "states").await.unwrap().1.is_none());
    first.release().await;
    assert!(!Register::new(&stores).heartbeat(1).await.unwrap().released(), "a lost claim is not released");
    assert!(tokio::time::timeout(2 * QUICK.beat_every, second.lost()).await.is_err());
    assert!(second.is_certain());
}

#[tokio::test]
async fn a_holder_cut_off_from_the_store_is_uncertain_until_it_is_back() {
    let store = Arc::new(Moody::default());
    let stores = stores(Arc::clone(&store) as _);
    let claim = take_as(&stores, "alpha", &alive).await.unwrap();
    tokio::time::sleep(2 * QUICK.certain_for).await;
    assert!(claim.is_certain(), "the heartbeat goes on");
    store.down.store(true, Ordering::SeqCst);
    until(|| !claim.is_certain()).await;
    store.down.store(false, Ordering::SeqCst);
    until(|| claim.is_certain()).await;
}

async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_does_not_make_a_rival_of_ourselves() {
    let store = Arc::new(Moody::default());
    store.lose_next_answer.store(true, Ordering::SeqCst);
    let claim = take_as(&stores(store), "alpha", &alive).await.unwrap();
    assert_eq!(claim.number(), 1);
}

#[tokio::test]
async fn old_claims_are_pruned_and_numbers_never_used_again() {
    let stores = memory();
    for n in 1..=9 {
        let claim = take_as(&stores, "alpha", &dead).await.unwrap();
        assert_eq!(claim.number(), n);
        // The first beat prunes.
        let beaten = async {
            while Register::new(&stores).heartbeat(n).await.unwrap() == Heartbeat::missing() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), beaten).await.unwrap();
        claim.release().await;
    }
    assert_eq!((objects(&stores, "writer").await, objects(&stores, "heartbeat").await), (4, 4));
}

#[tokio::test]
async fn dropping_a_claim_frees_the_lake() {
    let stores = memory();
    drop(take_as(&stores, "alpha", &alive).await.unwrap());
    let freed = async {
        while take_as(&stores, "beta", &alive).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), freed).await.unwrap();
}

/// Many starters on one lake, after nobody and after a dead writer: one wins, the others are told its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_starters_one_wins() {
    for predecessor in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let location = Location::folder(dir.path()).unwrap();
        let folder = Stores::open_or_create(&location, &S3Options::default()).await.unwrap();
        for stores in [memory(), folder] {
            if predecessor {
                vanished(&stores, "ghost").await;
            }
            let starters = (0..24).map(|n| {
                let stores = stores.clone();
                crate::task::spawn("starter", async move {
                    let look = |holder: &Holder| if holder.host == "ghost" { Liveness::Dead } else { Liveness::Alive };
                    take_as(&stores, &format!("host-{n}"), &look).await
                })
            });
            let taken: Vec<_> =
                futures::future::join_all(starters).await.into_iter().map(|joined| joined.unwrap()).collect();
            let winners: Vec<_> = taken.iter().filter_map(|taken| taken.as_ref().ok()).collect();
            assert_eq!(winners.len(), 1, "{taken:?}");
            assert_eq!(winners[0].number(), 1 + u64::from(predecessor));
            for error in taken.iter().filter_map(|taken| taken.as_ref().err()) {
                assert_eq!(error.kind(), Kind::Refused, "{error}");
            }
        }
    }
}

/// A starter that slept between its listing and its PUT finds its number pruned: it must not believe in it.
#[tokio::test]
async fn a_sleeper_with_an_old_number_is_refused() {
    let stores = memory();
    let register = Register::new(&stores);
    register.put_writer(9, &holder("alpha")).await.unwrap();
    assert!(register.put_writer(2, &holder("sleeper")).await.unwrap());
    assert_eq!(register.newest_after(2).await.unwrap(), Some(9));
    let error = take_as(&stores, "sleeper", &alive).await.unwrap_err();
    assert!(error.message().contains("host `alpha`"), "{error}");
}

#[test]
fn claim_objects_are_named_so_that_they_sort() {
    let stores = memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let register = Register::new(&stores);
        for n in [2, 10, 9] {
            register.put_writer(n, &holder("alpha")).await.unwrap();
        }
        assert_eq!(register.newest_after(0).await.unwrap(), Some(10));
        assert_eq!(register.newest_after(10).await.unwrap(), None);
        let first: Vec<_> = stores.data().list(None).try_collect().await.unwrap();
        assert!(first.iter().any(|meta| Path::new(meta.location.as_ref()).ends_with("00000000000000000010")));
    });
}
