//! The examples are run, so that they stay true; and they stay short.

#[path = "../../../examples/document.rs"]
mod document;
#[path = "../../../examples/file_store.rs"]
mod file_store;
#[path = "../../../examples/graph.rs"]
mod graph;
#[path = "../../../examples/in_memory.rs"]
mod in_memory;
#[path = "../../../examples/key_value.rs"]
mod key_value;
#[path = "../../../examples/markdown.rs"]
mod markdown;
#[path = "../../../examples/relational.rs"]
mod relational;
#[path = "../../../examples/vector.rs"]
mod vector;

/// Name, program and text of each.
macro_rules! all {
    ($($name:ident),*) => {
        [$((
            stringify!($name),
            $name::main as fn() -> Result<(), Box<dyn std::error::Error>>,
            include_str!(concat!("../../../examples/", stringify!($name), ".rs")),
        )),*]
    };
}

#[test]
fn run_and_are_short() {
    let all = all!(
        relational, document, graph, in_memory, key_value, vector, file_store, markdown
    );
    for (name, main, text) in all {
        main().unwrap_or_else(|error| panic!("{name}: {error}"));
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let code = code.filter(|line| !line.trim().is_empty()).count();
        assert!(code < 50, "{name}: {code} lines of code");
    }
}
