//! Named consumers: fetched, acknowledged, held for.

use super::client::{Surface, TOKEN, config, row_ids};
use super::sse::EventSource;
use crate::bad::shop::{Shop, token};

fn pull() -> Shop {
    Shop::with_config(&config(
        "[[cdc.emitters]]\nname = \"app\"\nemitter = \"custom\"\nbatch_size = 10\n[cdc.emitters.custom]\npull = true\n",
        "",
        "",
    ))
}

fn poll(surface: &Surface, query: &str) -> (Vec<i64>, String) {
    let path = format!("/v1/events?consumer=app&wait=30s&{query}");
    let page = surface.get(&path).json();
    let ids = row_ids(page["events"].as_array().unwrap());
    (ids, page["next"].as_str().unwrap().to_owned())
}

/// What is not acknowledged comes again, also after a crash; what is, does not.
#[test]
fn an_acknowledgement_is_the_durable_position() {
    let mut shop = pull();
    shop.commit(30);
    let surface = Surface::start(&shop);
    let (ids, ten) = poll(&surface, "limit=10");
    assert_eq!(ids, shop.committed()[..10]);
    let (ids, _) = poll(&surface, "limit=10");
    assert_eq!(ids, shop.committed()[..10], "looking takes nothing");
    let (ids, twenty) = poll(&surface, &format!("limit=10&after={ten}"));
    assert_eq!(ids, shop.committed()[10..20]);

    let body = format!("{{\"token\":\"{ten}\"}}");
    let ack = |surface: &Surface, body: &str| surface.post("/v1/consumers/app/ack", body);
    // Nobody moves a position without the token.
    surface
        .ask("/v1/consumers/app/ack", &["--data", &body])
        .refused(401, "unauthorized");
    let wrong = format!("authorization: Bearer {TOKEN}x");
    surface
        .ask(
            "/v1/consumers/app/ack",
            &["--header", &wrong, "--data", &body],
        )
        .refused(401, "unauthorized");
    let got = ack(&surface, &body);
    assert_eq!(got.status, 200, "{}", got.body);
    assert_eq!(got.json()["acknowledged"], ten.as_str());
    crate::bad::shop::until("the checkpoint follows", || {
        (token(&shop.tool) == ten).then_some(())
    });
    // kill -9: the checkpoint is all that is left.
    drop(surface);

    let surface = Surface::start(&shop);
    let (ids, _) = poll(&surface, "limit=100");
    assert_eq!(ids[0], 11, "what was acknowledged is gone: {ids:?}");
    // A consumer that keeps its own position gets only what is behind it.
    let (ids, _) = poll(&surface, &format!("limit=100&after={twenty}"));
    assert_eq!(ids[0], 21, "{ids:?}");
    assert_eq!(ack(&surface, &twenty).status, 200, "a bare token will do");
    let (ids, _) = poll(&surface, "limit=100");
    assert_eq!(ids[0], 21, "{ids:?}");
    surface.until_metric("cdc_emitter_events_total{emitter=\"app\",result=\"delivered\"} 10");
    let got = surface.get("/v1/consumers/app").json();
    assert_eq!(got["waiting_events"], 10);
    assert_eq!(surface.get("/v1/consumers").json()["consumers"][0], got);
    ack(&surface, "cdc1_x").refused(400, "token_malformed");
    ack(&surface, "{}").refused(400, "bad_request");
    surface
        .post("/v1/consumers/nobody/ack", &body)
        .refused(404, "no_such_consumer");
    surface
        .get("/v1/events?consumer=app&table=t")
        .refused(400, "bad_request");
}

/// A browser's stream of a named consumer: connected again it goes on where it was, and only an
/// acknowledgement moves the checkpoint.
#[test]
fn a_consumers_stream_resumes() {
    let mut shop = pull();
    shop.commit(20);
    let surface = Surface::start(&shop);
    let path = "/v1/stream?consumer=app&limit=";
    let read = EventSource::read(&surface.stream(&format!("{path}20"), &[]));
    assert_eq!(row_ids(&read.messages()), shop.committed());
    let seventh = &read.events[6].last_event_id;
    let header = format!("last-event-id: {seventh}");
    let again = EventSource::read(&surface.stream(&format!("{path}13"), &[&header]));
    assert_eq!(row_ids(&again.messages()), shop.committed()[7..]);
    // Having been sent is not having been done.
    let (ids, _) = poll(&surface, "limit=100");
    assert_eq!(ids, shop.committed());
    // Live: what comes while the stream is open.
    let mut follow = surface.follow("/v1/stream?consumer=app", &[]);
    let log = shop.commit(5);
    let all = shop.committed();
    follow.until(|text| (row_ids(&EventSource::read(text).messages()) == all).then_some(()));
    drop(log);
    surface.stop();
}

/// The window is bounded: what does not fit waits in the log until something is acknowledged.
#[test]
fn a_full_window_waits_for_acknowledgements() {
    let mut shop = Shop::with_config(&config(
        "[[cdc.emitters]]\nname = \"app\"\nemitter = \"custom\"\n[cdc.emitters.custom]\npull = true\nwindow_bytes = \"64KiB\"\n",
        "",
        "",
    ));
    shop.commit(1000);
    let surface = Surface::start(&shop);
    let (mut next, mut seen, mut after) = (1, 0, String::new());
    while seen < 1000 {
        let (ids, last) = poll(&surface, &format!("limit=10000&after={after}"));
        assert!(!ids.is_empty());
        for id in &ids {
            assert_eq!(*id, next);
            next += 1;
        }
        seen += ids.len();
        let waiting = surface.get("/v1/consumers/app").json()["waiting_bytes"].as_u64();
        // One hand-over may pass alone.
        assert!(waiting.unwrap() < 512 << 10, "{waiting:?}");
        assert_eq!(surface.post("/v1/consumers/app/ack", &last).status, 200);
        after = last;
    }
    surface.until_metric("cdc_emitter_events_total{emitter=\"app\",result=\"delivered\"} 1000");
    surface.stop();
}
