//! What clients may cost, and who may come.

use std::io::Write as _;
use std::net::TcpStream;

use super::client::{Surface, TOKEN, shop};
use crate::tool::{Tool, snapshot};

#[test]
fn connections_are_counted() {
    let shop = shop("connections_max = 2\n");
    let surface = Surface::start(&shop);
    let open = || {
        let mut follow = surface.follow("/v1/stream", &[]);
        // Its head was answered: the connection is counted.
        follow.until(|text| text.contains("retry:").then_some(()));
        follow
    };
    let (first, second) = (open(), open());
    let full = || surface.get("/livez");
    full().refused(503, "busy");
    drop(first);
    crate::bad::shop::until("there is room again", || {
        (full().status == 200).then_some(())
    });
    drop(second);
    surface.stop();
}

/// A client that asks for megabytes and reads none is let go, and what it was given is freed.
#[test]
fn a_client_that_does_not_read_is_let_go() {
    let mut shop = shop("write_timeout = \"200ms\"\n");
    // More than the buffers of both ends of a loopback connection.
    shop.commit_sized(32, 1 << 20);
    let surface = Surface::start(&shop);
    let mut silent = TcpStream::connect(&surface.address).unwrap();
    let request = format!(
        "GET /v1/stream?from=earliest HTTP/1.1\r\nhost: {}\r\n\r\n",
        surface.address
    );
    silent.write_all(request.as_bytes()).unwrap();
    surface.until_metric("cdc_http_readers 1");
    surface.until_metric("cdc_http_readers 0");
    drop(silent);
    surface.stop();
}

#[test]
fn requests_that_are_too_large_are_refused() {
    let shop = shop("");
    let surface = Surface::start(&shop);
    let body = "x".repeat((1 << 20) + 1);
    shop.tool.write("body", &body);
    let from = format!("@{}", shop.tool.path("body").display());
    surface
        .post("/v1/consumers/x/ack", &from)
        .refused(413, "body_too_large");
    let header = format!("x-large: {}", "x".repeat(100 << 10));
    let got = surface.ask("/livez", &["--header", &header]);
    assert_eq!(got.status, 431, "{}", got.body);
    let many = "a=1&".repeat(65);
    surface
        .get(&format!("/v1/events?{many}"))
        .refused(400, "bad_request");
    surface.stop();
}

#[test]
fn other_host_names_and_web_pages_read_nothing() {
    let shop = shop("origins = [\"https://shop.example\"]\n");
    let surface = Surface::start(&shop);
    let got = surface.ask("/v1/status", &["--header", "host: evil.example"]);
    got.refused(403, "host_refused");
    assert_eq!(
        surface
            .ask("/livez", &["--header", "host: evil.example"])
            .status,
        200
    );
    let allowed = |origin: &str| {
        let header = format!("origin: {origin}");
        let got = surface.ask("/v1/status", &["--include", "--header", &header]);
        got.body
            .contains(&format!("access-control-allow-origin: {origin}"))
    };
    assert!(allowed("https://shop.example"));
    assert!(!allowed("https://evil.example"));
    surface.stop();
}

#[test]
fn reads_need_the_token_if_configured() {
    let shop = shop("reads = \"token\"\n");
    let surface = Surface::start(&shop);
    for path in [
        "/v1/status",
        "/v1/stream",
        "/v1/events",
        "/v1/dlq",
        "/v1/consumers",
    ] {
        surface.get(path).refused(401, "unauthorized");
    }
    let bearer = format!("authorization: Bearer {TOKEN}");
    assert_eq!(
        surface.ask("/v1/status", &["--header", &bearer]).status,
        200
    );
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_ne!(surface.get(path).status, 401, "{path}");
    }
    surface.stop();
}

/// Every mistake has its place.
#[test]
fn configurations_that_make_no_sense_are_refused_with_a_caret() {
    let mut shown = String::new();
    for text in [
        "listen = \"0.0.0.0:7979\"",
        "listen = \"example.com:80\"",
        "listen = \"127.0.0.1:7979\"\ntoken = \"short\"",
        "listen = \"127.0.0.1:7979\"\nreads = \"token\"",
        "listen = \"127.0.0.1:7979\"\ntoken = \"0123456789abcdef\"\ntoken_file = \"x\"",
        "listen = \"127.0.0.1:7979\"\norigins = [\"https://shop.example/path\"]",
        "listen = \"127.0.0.1:7979\"\nconnection_max = 5",
        "token = \"0123456789abcdef\"",
        "listen = \"127.0.0.1:7979\"\n[cdc.custom]\npull = true\n[[cdc.emitters]]\nname = \"app\"\nemitter = \"custom\"",
        "listen = \"127.0.0.1:7979\"\ntoken = \"0123456789abcdef\"\n[[cdc.emitters]]\nname = \"app\"\nemitter = \"custom\"\nformat = \"bincode\"\n[cdc.emitters.custom]\npull = true\ncommand = [\"x\"]",
    ] {
        let tool = Tool::with_config(&format!("[cdc.http]\n{text}\n"));
        let run = tool.run(&["validate"]);
        assert_eq!(run.code, 3, "{text}: {}", run.out);
        shown.push_str(&run.err);
        shown.push('\n');
    }
    let tool = Tool::with_config(
        "[[cdc.emitters]]\nname = \"app\"\nemitter = \"custom\"\n[cdc.emitters.custom]\npull = true\n",
    );
    shown.push_str(&tool.run(&["validate"]).err);
    snapshot("http_refused", &shown);
}

#[test]
fn an_address_in_use_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let shop = shop("");
    let set = format!("http.listen={address}");
    let run = shop.tool.run(&["run", "--once", "--set", &set]);
    assert_eq!(run.code, 3, "{}", run.err);
    assert!(
        run.err.contains(&format!("listen on {address} for HTTP")),
        "{}",
        run.err
    );
}
