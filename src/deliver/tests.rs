//! Sinks against a real HTTP server that misbehaves, and a real store.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;

use super::courier::BOUND;
use super::message::tests::message;
use super::*;

const SOON: Duration = Duration::from_secs(30);

/// What a server does with a request; without orders it says 200.
enum Answer {
    Status(u16),
    Later { status: u16, seconds: u64 },
    Hang,
}

/// A server, and the ids it was given.
struct Server {
    url: String,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    got: Arc<Mutex<Vec<(String, Instant)>>>,
}

type Orders = (Arc<Mutex<VecDeque<Answer>>>, Arc<Mutex<Vec<(String, Instant)>>>);

async fn answer(State((answers, got)): State<Orders>, headers: HeaderMap) -> Response {
    let id = headers["idempotency-key"].to_str().unwrap().to_owned();
    got.lock().push((id, Instant::now()));
    let answer = answers.lock().pop_front();
    let status = |code| StatusCode::from_u16(code).unwrap();
    match answer {
        None => StatusCode::OK.into_response(),
        Some(Answer::Status(code)) => (status(code), "so it is").into_response(),
        Some(Answer::Later { status: code, seconds }) => {
            (status(code), [("retry-after", seconds.to_string())]).into_response()
        }
        Some(Answer::Hang) => std::future::pending().await,
    }
}

impl Server {
    async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let (answers, got) = (Arc::new(Mutex::new(answers.into_iter().collect())), Arc::new(Mutex::default()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let app = axum::Router::new().fallback(answer).with_state((Arc::clone(&answers), Arc::clone(&got)));
        task::spawn("test-server", async move { axum::serve(listener, app).await });
        Self { url, answers, got }
    }

    fn ids(&self) -> Vec<String> {
        self.got.lock().iter().map(|(id, _)| id.clone()).collect()
    }
}

/// A place where nobody listens.
const NOWHERE: &str = "http://127.0.0.1:1/";

fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(object_store::memory::InMemory::new())
}

async fn ops(url: &str, store: &Arc<dyn ObjectStore>) -> Sinks {
    let options = SinkOptions::Webhook(WebhookSink {
        url: Template::parse(url).unwrap(),
        origin: url.to_owned(),
        headers: BTreeMap::new(),
        body: None,
        key: None,
        send_resolved: true,
    });
    Sinks::start(&BTreeMap::from([("ops".to_owned(), options)]), &Cluster::default(), store).await.unwrap()
}

fn counters(sinks: &Sinks) -> Counters {
    sinks.statuses().remove(0).counters
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, waiting).await.is_ok(), "{what}");
}

async fn stored(store: &Arc<dyn ObjectStore>) -> usize {
    let listed = store.list(Some(&Path::from("_millpond/deliver/ops"))).try_collect::<Vec<_>>().await;
    listed.unwrap().len()
}

fn news(id: impl ToString) -> Message {
    message(&id.to_string(), MessageKind::News)
}

#[tokio::test]
async fn a_server_that_fails_gets_every_message_in_order_once_it_answers() {
    let server = Server::start([Answer::Status(503), Answer::Status(301), Answer::Status(408)]).await;
    let sinks = ops(&server.url, &memory()).await;
    for id in ["a", "b", "c"] {
        sinks.send("ops", news(id));
    }
    until("all are delivered", || counters(&sinks).delivered == 3).await;
    assert_eq!(server.ids(), ["a", "a", "a", "a", "b", "c"]);
    let counters = counters(&sinks);
    assert_eq!((counters.pending, counters.pending_bytes, counters.refused), (0, 0, 0));
    assert_eq!(counters.failing_since, None);
    assert_eq!(counters.last_error.unwrap(), "answer 408 Request Timeout: so it is");
    sinks.stop().await;
}

#[tokio::test]
async fn a_refusal_is_final_and_the_next_message_goes() {
    let server = Server::start([Answer::Status(400)]).await;
    let sinks = ops(&server.url, &memory()).await;
    sinks.send("ops", news("bad"));
    sinks.send("ops", news("good"));
    sinks.send("nobody", news("lost"));
    until("the good one is delivered", || counters(&sinks).delivered == 1).await;
    assert_eq!(server.ids(), ["bad", "good"]);
    assert_eq!(counters(&sinks).refused, 1);
    assert_eq!(counters(&sinks).last_error.unwrap(), "answer 400 Bad Request: so it is");
}

#[tokio::test]
async fn a_receiver_that_asks_for_a_pause_gets_it() {
    let server = Server::start([Answer::Later { status: 429, seconds: 2 }]).await;
    let sinks = ops(&server.url, &memory()).await;
    sinks.send("ops", news("a"));
    until("it is delivered", || counters(&sinks).delivered == 1).await;
    let got = server.got.lock();
    assert!(got[1].1 - got[0].1 >= Duration::from_secs(2), "{got:?}");
}

/// What a dead sink's messages become: they wait within the bound, survive the process, and leave nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_sink_s_backlog_is_bounded_and_delivered_after_a_restart() {
    let store = memory();
    let sinks = ops(NOWHERE, &store).await;
    sinks.send("ops", message("alert", MessageKind::Alert));
    let large = BOUND.bytes / 50;
    for number in 0..200 {
        let mut news = news(number);
        news.payload.insert("text".into(), "x".repeat(large).into());
        sinks.send("ops", news);
    }
    let full = counters(&sinks);
    let most = full.pending;
    assert_eq!((most, full.dropped), (50, 151), "49 large ones and a small one fit");
    assert!(full.pending_bytes <= BOUND.bytes as u64);
    until("it is known to be dead", || counters(&sinks).failing_since.is_some()).await;
    sinks.stop().await;
    assert_eq!(stored(&store).await as u64, most);

    let server = Server::start([]).await;
    let sinks = ops(&server.url, &store).await;
    sinks.send("ops", news("new"));
    until("all are delivered", || counters(&sinks).delivered == most + 1).await;
    let expected = (151..200).map(|number| number.to_string());
    let expected: Vec<String> = std::iter::once("alert".into()).chain(expected).chain(["new".into()]).collect();
    assert_eq!(server.ids(), expected);
    sinks.stop().await;
    assert_eq!(stored(&store).await, 0);
}

/// A process that is killed has written down what waited for over a second, though an attempt was under way.
#[tokio::test]
async fn what_waits_is_written_down_while_the_receiver_hangs() {
    let store = memory();
    let server = Server::start([Answer::Hang]).await;
    let killed = ops(&server.url, &store).await;
    killed.send("ops", news("a"));
    killed.send("ops", news("b"));
    until("both are written down", || counters(&killed).stored == 2).await;
    for courier in killed.0.couriers.lock().iter() {
        courier.abort();
    }
    let sinks = ops(&server.url, &store).await;
    until("both are delivered", || counters(&sinks).delivered == 2).await;
    assert_eq!(server.ids(), ["a", "a", "b"], "at least once, with the same id");
    until("the backlog is empty", || counters(&sinks).stored == 0).await;
    assert_eq!(stored(&store).await, 0);
}

#[tokio::test]
async fn messages_stay_in_memory_while_the_lake_is_away_too() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap());
    // A file where the folder should be: every write fails.
    let in_the_way = dir.path().join("_millpond");
    std::fs::write(&in_the_way, "").unwrap();
    let server = Server::start([Answer::Later { status: 503, seconds: 4 }]).await;
    let sinks = ops(&server.url, &store).await;
    sinks.send("ops", news("a"));
    until("the sink fails", || counters(&sinks).failing_since.is_some()).await;
    std::fs::remove_file(&in_the_way).unwrap();
    until("it is written down once the lake is back", || counters(&sinks).stored == 1).await;
    until("it is delivered", || counters(&sinks).delivered == 1).await;
    assert_eq!(server.ids(), ["a", "a"]);
    drop(server.answers);
    sinks.stop().await;
    assert_eq!(stored(&store).await, 0);
}

/// What is on its way when the process is told to stop still arrives.
#[tokio::test]
async fn a_stop_delivers_what_can_be_delivered() {
    let store = memory();
    let server = Server::start([]).await;
    let sinks = ops(&server.url, &store).await;
    for number in 0..50 {
        sinks.send("ops", news(number));
    }
    sinks.stop().await;
    assert_eq!((server.ids().len(), stored(&store).await), (50, 0));

    // A courier that idles wakes up to both at once; by chance it would see the stop first.
    for number in 0..20 {
        let sinks = ops(&server.url, &store).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        sinks.send("ops", news(format!("last {number}")));
        sinks.stop().await;
    }
    assert_eq!((server.ids().len(), stored(&store).await), (70, 0));
}

#[tokio::test]
async fn a_body_template_makes_valid_json_of_any_value() {
    let bodies: Arc<Mutex<Vec<serde_json::Value>>> = Arc::default();
    let kept = Arc::clone(&bodies);
    let take = move |axum::Json(body): axum::Json<serde_json::Value>| async move { kept.lock().push(body) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/cars/{{table}}", listener.local_addr().unwrap());
    let app = axum::Router::new().route("/cars/{name}", axum::routing::post(take));
    task::spawn("test-server", async move { axum::serve(listener, app).await });
    let webhook = SinkOptions::Webhook(WebhookSink {
        url: Template::parse(&url).unwrap(),
        origin: url,
        headers: BTreeMap::new(),
        body: Some(Template::parse(r#"{{"text": "{message}", "count": {count}}}"#).unwrap()),
        key: None,
        send_resolved: true,
    });
    let channel = Channel::open(&webhook, &Cluster::default()).unwrap();
    let mut odd = news("say \"hi\"\n");
    odd.payload.insert("table".into(), "a/b?c".into());
    assert_eq!(channel.deliver(&odd).await, Ok(()));
    assert_eq!(*bodies.lock(), [serde_json::json!({"text": "say \"hi\"\n happened", "count": 3})]);
}
