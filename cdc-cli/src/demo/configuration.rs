//! What the demonstrations deliver, and where to.

use std::path::Path;

/// A pipeline from `source` to files in `dir`, and of the table `orders` to a webhook.
pub(super) fn configuration(dir: &Path, source: &str, orders: &str, address: &str) -> String {
    let dir = dir.display();
    format!(
        r#"[cdc]
source = "{source}"
state_path = "{dir}/state"
dlq_path = "{dir}/dlq"

[[cdc.emitters]]
name = "archive"
emitter = "file"
[cdc.emitters.file]
path = "{dir}/archive"

[[cdc.emitters]]
name = "orders"
emitter = "webhook"
tables = ["{orders}"]
[[cdc.emitters.transforms]]
mask = {{ columns = ["card"], with = "last4" }}
[cdc.emitters.webhook]
url = "http://{address}/orders"
"#
    )
}
