//! Replays the corpora of fuzz targets as an ordinary test.

use std::fs;
use std::path::Path;

/// A target: any bytes, a panic if something does not hold.
pub type Target = fn(&[u8]);

/// Runs every target over the files of `dir/NAME` and over `seeds` (target, name, bytes). With
/// `WEFTKIT_WRITE_CORPUS` set, the seeds are written there, as what fuzzing begins with.
///
/// # Panics
/// If a target does not hold, or has nothing to run on.
pub fn replay(dir: &Path, targets: &[(&str, Target)], seeds: &[(&str, String, Vec<u8>)]) {
    let write = std::env::var_os("WEFTKIT_WRITE_CORPUS").is_some();
    for (name, target) in targets {
        let corpus = dir.join(name);
        let own = seeds.iter().filter(|(of, ..)| of == name);
        let mut runs = 0;
        for (_, seed, bytes) in own {
            if write {
                write_seed(&corpus, seed, bytes);
            }
            run(target, &format!("the seed {seed} of {name}"), bytes);
            runs += 1;
        }
        let files = fs::read_dir(&corpus)
            .unwrap_or_else(|error| panic!("list the corpus {}: {error}", corpus.display()));
        for file in files {
            let path = file.expect("a file of the corpus").path();
            let bytes = fs::read(&path).expect("a file of the corpus");
            run(target, &path.display().to_string(), &bytes);
            runs += 1;
        }
        assert!(runs > 0, "the corpus of {name} is empty");
    }
}

fn write_seed(corpus: &Path, seed: &str, bytes: &[u8]) {
    fs::create_dir_all(corpus).expect("a folder for the corpus");
    fs::write(corpus.join(format!("seed-{seed}")), bytes).expect("a seed of the corpus");
}

/// Runs one, and says which it was if it does not hold.
#[expect(clippy::print_stderr, reason = "names the input beside the panic")]
fn run(target: &Target, what: &str, bytes: &[u8]) {
    let held = std::panic::catch_unwind(|| target(bytes));
    if let Err(panic) = held {
        eprintln!("the input that does not hold: {what}");
        std::panic::resume_unwind(panic);
    }
}
