use std::{fmt, str::FromStr};

use cpu::CpuModel;
use serde::{Deserialize, Serialize};

use crate::{ValueError, convert::written_as_text};

/// What the machine sees of its processor: `host` or a model, and single features more or less.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cpu(CpuModel);

impl Cpu {
    /// All that the host can show.
    pub const HOST: Self = Self(CpuModel::HOST);

    /// The model.
    #[must_use]
    pub fn model(&self) -> &CpuModel {
        &self.0
    }
}

impl FromStr for Cpu {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        Ok(Self(typed.parse()?))
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

written_as_text!(Cpu);

/// What `--cpu help` prints.
pub(crate) fn help() -> String {
    let models = cpu::MODELS.iter().map(|model| format!("  {:25} {}\n", model.name, model.about));
    let models: String = models.collect();
    let mut names: Vec<_> = cpu::FEATURES.iter().map(|feature| feature.name).collect();
    names.retain(|name| !CpuModel::is_fixed(name));
    names.sort_unstable();
    let mut features = String::new();
    for line in names.chunks(7) {
        features.push_str(&format!("  {}\n", line.join(" ")));
    }
    format!(
        "Models for --cpu:\n  {:25} all that this host can show (the default)\n{models}\nFeatures, to be added as ,+NAME or taken away as ,-NAME:\n{features}",
        "host"
    )
}
