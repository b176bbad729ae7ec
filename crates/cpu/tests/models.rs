//! A model that was released is what it is for good: `models.txt` has the features of each.

use std::fmt::Write as _;

use whimbrel_cpu::{Feature, MODELS, by_name};

/// Two releases start a machine by the same words, and it moves between them only where both mean the same by these. So no line of the file
/// changes, nor goes, once there was a release with it. A new model is a new line, and what an old one should have had is a new model.
#[test]
fn every_model_has_the_features_that_it_was_released_with() {
    let mut found = String::new();
    for model in &MODELS {
        let features: Vec<_> =
            model.features().into_iter().map(|name| place(by_name(name).unwrap())).collect();
        writeln!(found, "{} ({}): {}", model.name, model.vendor.unwrap_or("any"), features.join(" "))
            .unwrap();
    }
    assert!(
        found == include_str!("models.txt"),
        "crates/cpu/tests/models.txt is not what the models are:\n{found}"
    );
}

/// Where a guest finds a feature, with its name.
fn place(feature: &Feature) -> String {
    let Feature { name, leaf, subleaf, register, bit } = feature;
    format!("{name}={leaf:x}.{subleaf}.{register:?}.{bit}")
}
