//! Dead letters of an emitter that has no position yet.

use crate::bad::shop::refused;
use crate::dead_letters::{answer, dlq, poisoned, taken};

/// Nobody knows how far it is: its first start would be refused behind a position that a redrive
/// made up.
#[test]
fn letters_of_an_emitter_without_a_position_wait_for_its_first_start() {
    let shop = poisoned();
    std::fs::remove_dir_all(shop.tool.path("state")).unwrap();
    shop.tool.write("reject", "");
    refused(
        &dlq(&shop, &["redrive"]),
        2,
        &["custom", "no position yet", "start the pipeline first"],
    );
    let shown = shop.tool.answer(&["position", "show"]);
    assert_eq!(shown, "no checkpoints in state\n");
    assert_eq!(taken(&shop), ["2a", "3a"]);
    shop.delivers();
    assert_eq!(
        answer(&shop, &["redrive"]),
        "custom: 5 delivered, 0 failed again, 0 left alone\n"
    );
    assert_eq!(answer(&shop, &["ls"]), "no dead letters\n");
}
