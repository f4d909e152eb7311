//! Each house rule holds for this workspace.

use xtask::tidy::RULES;

/// Checks one rule by name and prints every finding.
fn holds(name: &str) {
    let (_, rule) = RULES
        .into_iter()
        .find(|(known, _)| *known == name)
        .unwrap_or_else(|| panic!("no rule is called {name}"));
    let findings = rule(&xtask::root()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(findings.is_empty(), "{name}:\n{}", findings.join("\n"));
}

macro_rules! rules {
    ($($test:ident: $name:literal,)+) => {
        $(
            #[test]
            fn $test() {
                holds($name);
            }
        )+

        #[test]
        fn every_rule_has_a_test() {
            let tested = [$($name),+];
            let known: Vec<&str> = RULES.iter().map(|(name, _)| *name).collect();
            assert_eq!(tested[..], known[..]);
        }
    };
}

rules! {
    crate_edges: "crate edges",
    lints_inherited: "lints inherited",
    fields_inherited: "package fields inherited",
    dependencies_from_workspace: "dependencies from the workspace",
    one_registry: "one registry",
    light_crates_stay_light: "light crates stay light",
    unsafe_code: "unsafe code",
    file_length: "file length",
    unfinished_code: "unfinished code",
    sleeping_tests: "sleeping tests",
    words: "words",
    changelog: "changelog",
    links: "links",
}
