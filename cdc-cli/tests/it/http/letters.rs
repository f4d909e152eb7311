//! Dead letters over HTTP.

use super::client::{Surface, config};
use crate::bad::shop::Shop;

/// A consumer that refuses rows 3 and 5 until a file says that it is mended.
const CHILD: &str = r#"while read -r line; do
id=$(printf '%s' "$line" | sed 's/^{"id":"\([^"]*\)".*/\1/')
case "$line" in
*'"key":{"id":3}'*|*'"key":{"id":5}'*)
  if [ ! -e mended ]; then printf '{"reject":"%s","reason":"not today"}\n' "$id"; continue; fi;;
esac
printf '%s\n' "$line" >> taken
printf '%s\n' "$id"
done
"#;

#[test]
fn letters_are_listed_sent_again_and_given_up() {
    let mut shop = Shop::with_config(&config(
        "[cdc.custom]\ncommand = [\"sh\", \"consumer.sh\"]\n",
        "emitter = \"custom\"\n",
        "",
    ));
    shop.tool.write("consumer.sh", CHILD);
    shop.commit(10);
    let surface = Surface::start(&shop);
    surface.until_metric("cdc_dlq_records{emitter=\"custom\",state=\"pending\"} 2");
    surface.until_metric("cdc_emitter_events_total{emitter=\"custom\",result=\"delivered\"} 8");
    let page = surface.get("/v1/dlq").json();
    let letters = page["letters"].as_array().unwrap();
    assert_eq!(letters.len(), 2);
    assert_eq!(
        letters[0]["message"],
        "the child process rejected the event: not today"
    );
    assert!(letters[0].get("event").is_none(), "a list shows no rows");
    // Page by page.
    let first = surface.get("/v1/dlq?limit=1").json();
    assert_eq!(first["letters"][0], letters[0]);
    let next = first["next"].as_str().unwrap();
    let second = surface.get(&format!("/v1/dlq?limit=1&after={next}")).json();
    assert_eq!(second["letters"][0], letters[1]);
    let none = surface.get("/v1/dlq?emitter=other").json();
    assert_eq!(
        (&none["letters"], &none["next"]),
        (&serde_json::json!([]), &serde_json::Value::Null)
    );
    assert_eq!(surface.get("/v1/dlq/stats").json()["letters"], 2);

    let id = |letter: usize| letters[letter]["event_id"].as_str().unwrap();
    let shown = surface.get(&format!("/v1/dlq/{}", id(0))).json();
    assert_eq!(shown["letters"][0]["event"]["after"]["id"], 3);
    surface.get("/v1/dlq/x").refused(400, "bad_request");
    surface.get("/v1/dlq?tabel=t").refused(400, "bad_request");

    let order = |ids: &[&str]| serde_json::json!({ "emitter": "custom", "ids": ids }).to_string();
    for path in ["/v1/dlq/redrive", "/v1/dlq/discard"] {
        surface
            .ask(path, &["--data", &order(&[id(0)])])
            .refused(401, "unauthorized");
        surface
            .post(path, "{\"emitter\":\"custom\"}")
            .refused(400, "bad_request");
        surface
            .post(path, "{\"emitter\":\"nobody\",\"all\":true}")
            .refused(404, "no_such_emitter");
    }
    // Not mended yet: it fails again and stays.
    let report = surface.post("/v1/dlq/redrive", &order(&[id(0)])).json();
    assert_eq!(
        (&report["delivered"], &report["failed"]),
        (&0.into(), &1.into())
    );
    shop.tool.write("mended", "");
    let report = surface.post("/v1/dlq/redrive", &order(&[id(0)])).json();
    assert_eq!(report["delivered"], 1);
    let report = surface.post("/v1/dlq/discard", &order(&[id(1)])).json();
    assert_eq!(report["discarded"], 1);
    surface
        .get(&format!("/v1/dlq/{}", id(1)))
        .refused(404, "no_such_letter");
    assert_eq!(surface.get("/v1/dlq/stats").json()["letters"], 0);
    let taken = std::fs::read_to_string(shop.tool.path("taken")).unwrap();
    let ids = crate::bad::shop::ids(&taken);
    assert_eq!(ids, [1, 2, 4, 6, 7, 8, 9, 10, 3]);
    surface.stop();
}

/// They count against the bounds of the queue: letters that no lane has can be given up.
#[test]
fn letters_of_an_emitter_that_is_gone_are_given_up() {
    let child = "[cdc.custom]\ncommand = [\"sh\", \"consumer.sh\"]\n";
    let mut shop = Shop::with_config(&config(child, "emitter = \"custom\"\n", ""));
    shop.tool.write("consumer.sh", CHILD);
    shop.commit(5);
    let surface = Surface::start(&shop);
    surface.until_metric("cdc_dlq_records{emitter=\"custom\",state=\"pending\"} 2");
    surface.stop();
    let other = "[[cdc.emitters]]\nname = \"other\"\nemitter = \"custom\"\n";
    shop.tool
        .write("cdc.toml", &config(&format!("{child}{other}"), "", ""));
    shop.tool.write("mended", "");
    let surface = Surface::start(&shop);
    let letters = surface.get("/v1/dlq").json()["letters"].clone();
    let id = letters[0]["event_id"].as_str().unwrap();
    let one = serde_json::json!({ "emitter": "custom", "ids": [id] }).to_string();
    surface
        .post("/v1/dlq/redrive", &one)
        .refused(404, "no_such_emitter");
    let report = surface.post("/v1/dlq/discard", &one).json();
    assert_eq!(report["discarded"], 1);
    let all = "{\"emitter\":\"custom\",\"all\":true}";
    let report = surface.post("/v1/dlq/discard", all).json();
    assert_eq!(report["discarded"], 1);
    // Nobody's, and nothing of it: most likely misspelt.
    surface
        .post("/v1/dlq/discard", all)
        .refused(404, "no_such_emitter");
    assert_eq!(surface.get("/v1/dlq/stats").json()["letters"], 0);
    surface.stop();
}
