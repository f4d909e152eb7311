//! `/v1/stream` and `/v1/events` without a consumer's name.

use serde_json::Value;

use super::client::{Surface, row_ids, shop};
use super::sse::EventSource;

const NDJSON: &str = "accept: application/x-ndjson";

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_stream_gives_everything_and_resumes_strictly_behind_the_last_event_id() {
    let mut shop = shop("");
    shop.commit(40);
    let surface = Surface::start(&shop);
    let text = surface.stream("/v1/stream?from=earliest&limit=40", &[]);
    let read = EventSource::read(&text);
    assert_eq!(row_ids(&read.messages()), shop.committed());
    assert_eq!(read.retry_millis, Some(1000));
    // What a client that lost its connection at any place would send.
    for seen in [1, 17, 39] {
        let id = &read.events[seen - 1].last_event_id;
        let left = 40 - seen;
        let path = format!("/v1/stream?from=earliest&limit={left}");
        let again = surface.stream(&path, &[&format!("last-event-id: {id}")]);
        let ids = row_ids(&EventSource::read(&again).messages());
        assert_eq!(ids, shop.committed()[seen..], "after {seen}");
    }
    surface.stop();
}

#[test]
fn live_events_come_as_they_are_committed() {
    let mut shop = shop("");
    shop.commit(3);
    let surface = Surface::start(&shop);
    let mut follow = surface.follow("/v1/stream?from=earliest", &[]);
    let count = |text: &str| EventSource::read(text).events.len();
    follow.until(|text| (count(text) == 3).then_some(()));
    let log = shop.commit(2);
    follow.until(|text| (count(text) == 5).then_some(()));
    drop(log);
    surface.stop();
}

#[test]
fn lines_of_json_filters_and_starts() {
    let mut shop = shop("");
    shop.commit(20);
    let surface = Surface::start(&shop);
    let all = lines(&surface.stream("/v1/stream?from=earliest&limit=20", &[NDJSON]));
    assert_eq!(row_ids(&all), shop.committed());
    let ids = |path: &str| row_ids(&lines(&surface.stream(path, &[NDJSON])));
    let position = all[9]["position"].as_str().unwrap();
    assert_eq!(
        ids(&format!("/v1/stream?from=position:{position}&limit=2")),
        [11, 12]
    );
    // An event's id is as good as a token.
    let id = all[9]["id"].as_str().unwrap();
    assert_eq!(ids(&format!("/v1/stream?after={id}&limit=1")), [11]);
    assert_eq!(
        ids("/v1/stream?from=time:1970-01-01T00:00:00Z&limit=1"),
        [1]
    );
    let where_ = "where=after.id+%3E%3D+19&table=public.t&operation=insert";
    assert_eq!(
        ids(&format!("/v1/stream?from=earliest&limit=2&{where_}")),
        [19, 20]
    );
    let debezium = surface.stream(
        "/v1/stream?from=earliest&limit=1&format=debezium",
        &[NDJSON],
    );
    assert_eq!(lines(&debezium)[0]["op"], "c");
    surface.stop();
}

/// Everything the filter drops still moves the client's last event id.
#[test]
fn a_fully_filtered_stream_moves() {
    let mut shop = shop("");
    shop.commit(5);
    let surface = Surface::start(&shop);
    let mut follow = surface.follow("/v1/stream?from=earliest&table=public.other", &[]);
    let id = follow.until(|text| {
        let id = EventSource::read(text).last_event_id;
        (!id.is_empty()).then_some(id)
    });
    let log = shop.commit(1);
    let text = surface.stream("/v1/stream?limit=1", &[&format!("last-event-id: {id}")]);
    assert_eq!(row_ids(&EventSource::read(&text).messages()), [6]);
    drop(log);
    surface.stop();
}

#[test]
fn what_cdc_changes_is_changed_in_streams_too() {
    let config = super::client::config(
        "[[cdc.transforms]]\nmask = { columns = [\"text\"], with = \"null\" }\n[cdc.file]\npath = \"out\"\n",
        "emitter = \"file\"\nwhere = \"after.id > 2\"\n",
        "",
    );
    let mut shop = crate::bad::shop::Shop::with_config(&config);
    shop.commit(4);
    let surface = Surface::start(&shop);
    let seen = lines(&surface.stream("/v1/stream?from=earliest&limit=2", &[NDJSON]));
    assert_eq!(row_ids(&seen), [3, 4]);
    assert!(seen.iter().all(|event| event["after"]["text"].is_null()));
    surface.stop();
}

#[test]
fn refusals_are_told_apart() {
    let mut shop = shop("");
    shop.commit(5);
    let surface = Surface::start(&shop);
    let of_another_log = {
        let mut other = self::shop("");
        other.commit(1);
        other.delivers();
        other.token()
    };
    let (head, tail) = of_another_log.split_at(30);
    let other = if tail.starts_with('0') { '1' } else { '0' };
    let damaged = format!("{head}{other}{}", &tail[1..]);
    let newer = "cdc1_08130c9i6cq3adhn70sm2oj3chimc000003g0000000mmdq8000000g000000rv1kt0g";
    for path in ["/v1/stream", "/v1/events"] {
        let ask = |query: &str| surface.get(&format!("{path}?{query}"));
        ask("after=cdc1_%20").refused(400, "token_malformed");
        ask(&format!("after={damaged}")).refused(400, "token_damaged");
        ask(&format!("after={newer}")).refused(400, "token_of_a_newer_version");
        ask(&format!("after={of_another_log}")).refused(409, "token_of_another_source");
        ask("from=position:FF/0:0").refused(409, "token_ahead");
        ask("from=yesterday").refused(400, "bad_request");
        ask("tabel=t").refused(400, "bad_request");
        ask("where=after.x+%3D%3D").refused(400, "bad_request");
        ask("consumer=nobody").refused(404, "no_such_consumer");
    }
    let got = surface.ask("/v1/stream", &["--header", "accept: text/html"]);
    got.refused(406, "not_acceptable");
    let got = surface.ask("/v1/stream", &["--header", "last-event-id: x"]);
    got.refused(400, "token_malformed");
    surface.get("/v2").refused(404, "not_found");
    surface
        .ask("/v1/status", &["--data", "x"])
        .refused(405, "method_not_allowed");
    surface.stop();
}

/// 410, and it says from where one can go on.
#[test]
fn a_position_that_is_gone_names_the_oldest_there_is() {
    let mut shop = shop("");
    shop.commit(10);
    let surface = Surface::start(&shop);
    let text = surface.stream("/v1/stream?from=earliest&limit=1", &[]);
    let first = EventSource::read(&text).last_event_id;
    // The engine keeps nothing for replay from now on.
    shop.retain_bytes = 0;
    let log = shop.commit(300);
    log.trim().unwrap();
    let got = surface.get(&format!("/v1/events?after={first}"));
    let error = got.refused(410, "token_expired");
    let oldest = error["oldest"].as_str().unwrap();
    let got = surface.get(&format!("/v1/events?after={oldest}&limit=1"));
    assert_eq!(got.status, 200, "{}", got.body);
    assert_eq!(got.json()["events"].as_array().unwrap().len(), 1);
    // An EventSource gives up for good on any status but 200, as it should here.
    let header = format!("last-event-id: {first}");
    let got = surface.ask("/v1/stream", &["--header", &header]);
    got.refused(410, "token_expired");
    drop(log);
    surface.stop();
}

#[test]
fn a_poll_waits_for_the_first_event_and_goes_on_behind_it() {
    let mut shop = shop("");
    shop.commit(5);
    let surface = Surface::start(&shop);
    let poll = |query: &str| surface.get(&format!("/v1/events?{query}")).json();
    let mut seen = Vec::new();
    let mut next = String::new();
    for expected in [2, 2, 1, 0] {
        let page = poll(&format!("limit=2&after={next}"));
        let events = page["events"].as_array().unwrap();
        assert_eq!(events.len(), expected);
        seen.extend(row_ids(events));
        page["next"].as_str().unwrap().clone_into(&mut next);
    }
    assert_eq!(seen, shop.committed());
    // Nothing there yet: the answer comes with the event, long before the wait is over.
    let mut waiting = surface.follow(&format!("/v1/events?after={next}&wait=60s"), &[]);
    surface.until_metric("cdc_http_readers 1");
    let log = shop.commit(1);
    let page: Value = waiting.until(|text| serde_json::from_str(text).ok());
    assert_eq!(row_ids(page["events"].as_array().unwrap()), [6]);
    drop(log);
    surface.stop();
}
