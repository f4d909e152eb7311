//! Signatures, judged by implementations that are not ours: the public Python package of Standard
//! Webhooks, and the check that `docs/specs/webhook.md` gives to receivers.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cdc_core::Emitter;
use cdc_emit_webhook::{Body, Secret, WebhookEmitter};
use serde_json::{Value, json};

use crate::server::{Server, batch};

/// Requests as a receiver gets them: with one key, and with two while keys are changed.
async fn cases(bodies: &[Body], gzip: bool) -> Vec<Value> {
    let mut cases = Vec::new();
    for body in bodies {
        for count in 1..=2u8 {
            let secrets: Vec<_> = (1..=count)
                .map(|fill| {
                    format!(
                        "whsec_{}",
                        STANDARD.encode(vec![fill; 24 + usize::from(fill)])
                    )
                })
                .collect();
            let server = Server::start([]).await;
            let mut config = server.config();
            config.body = *body;
            config.gzip = gzip;
            config.secrets = secrets
                .iter()
                .map(|secret| Secret::parse(secret).unwrap())
                .collect();
            let mut emitter = WebhookEmitter::new(config).unwrap();
            let events = if *body == Body::Json { 1 } else { 20 };
            emitter.emit(&batch(events)).await.unwrap();
            let seen = &server.seen()[0];
            cases.push(json!({
                "secrets": secrets,
                "headers": seen.headers,
                "body": STANDARD.encode(&seen.body),
            }));
        }
    }
    cases
}

/// Runs Python with the cases on its standard input.
fn python(arguments: &[&str], cases: &[Value]) -> String {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python");
    let mut child = Command::new("python3")
        .args(arguments)
        .env("PYTHONPATH", packages)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 checks the signatures; install python3");
    let mut input = child.stdin.take().unwrap();
    // A child that ends early says why on standard error.
    let _ = input.write_all(&serde_json::to_vec(cases).unwrap());
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{} (a missing package `standardwebhooks` is installed by `cargo xtask setup`)",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn the_public_library_of_another_language_verifies_every_body() {
    let cases = cases(&Body::ALL, false).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verify_standard.py");
    let verified = python(&[script.to_str().unwrap()], &cases);
    assert_eq!(verified, cases.len().to_string());
}

#[tokio::test]
async fn the_check_in_the_document_verifies_every_body_compressed_too() {
    let text = include_str!("../../../docs/specs/webhook.md");
    let (_, code) = text.split_once("```python\n").unwrap();
    let (code, _) = code.split_once("```").unwrap();
    let script = format!(
        "{code}
import json, sys
cases = json.load(sys.stdin)
for case in cases:
    body = base64.b64decode(case['body'])
    for secret in case['secrets']:
        assert verify(secret, case['headers'], body)
        assert not verify(secret, case['headers'], body + b' ')
        assert not verify('whsec_' + 'A' * 32, case['headers'], body)
        old = case['headers'] | {{'webhook-timestamp': '1000'}}
        assert not verify(secret, old, body)
print(len(cases))
"
    );
    for gzip in [false, true] {
        let cases = cases(&Body::ALL, gzip).await;
        assert_eq!(python(&["-c", &script], &cases), cases.len().to_string());
    }
}
