//! `whimbrel cpu-baseline`, as an operator uses it.
#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{path::Path, process::Command};

fn run(files: &[&Path]) -> (bool, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_whimbrel")).arg("cpu-baseline").args(files).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn hosts_that_are_unlike_get_a_model_and_the_one_that_limits_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let v2 = cpu::MODELS.iter().find(|model| model.name == "x86-64-v2").unwrap().features();
    let v3 = cpu::MODELS.iter().find(|model| model.name == "x86-64-v3").unwrap().features();
    let file = |name: &str, vendor: &str, features| {
        let host =
            serde_json::json!({ "host": name, "vendor": vendor, "brand": "test", "features": features });
        let path = directory.path().join(name);
        std::fs::write(&path, host.to_string()).unwrap();
        path
    };
    let (old, new) = (file("old", "GenuineIntel", v2), file("new", "GenuineIntel", v3.clone()));
    let (well, said) = run(&[&old, &new]);
    assert!(well && said.starts_with("--cpu x86-64-v2\nHost 'old' lacks: abm avx avx2 "), "{said}");

    let (well, said) = run(&[&new, &file("other", "AuthenticAMD", v3)]);
    assert!(!well && said.contains("machines do not move between these"), "{said}");
    // Hosts are called alike where nobody has named them.
    let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
    for (path, of) in [(&first, &old), (&second, &new)] {
        std::fs::write(
            path,
            std::fs::read_to_string(of).unwrap().replace("old", "localhost").replace("new", "localhost"),
        )
        .unwrap();
    }
    let (well, said) = run(&[&first, &second]);
    assert!(well && said.contains(&format!("Host 'localhost ({})' lacks: abm ", first.display())), "{said}");

    let nothing = directory.path().join("nothing");
    std::fs::write(&nothing, "{}").unwrap();
    let (well, said) = run(&[&nothing]);
    assert!(!well && said.contains("is not what `whimbrel-vmm --print-cpu` prints"), "{said}");
}
