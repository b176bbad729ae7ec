use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{CpuModel, MODELS, Model, by_name};

/// What one host can show a machine of its processor, as `whimbrel-vmm --print-cpu` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostCpu {
    /// What the host is called.
    pub host: String,
    /// Who made its processor: `GenuineIntel`, `AuthenticAMD`.
    pub vendor: String,
    /// What its maker calls it.
    pub brand: String,
    /// Its features by name.
    pub features: BTreeSet<String>,
}

impl HostCpu {
    /// Models that it can show, by name.
    pub fn models(&self) -> impl Iterator<Item = &'static str> {
        let shows = |model: &&Model| model.features().iter().all(|name| self.features.contains(*name));
        MODELS.iter().filter(shows).map(|model| model.name)
    }
}

/// What several hosts have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// What to start machines with, for `--cpu`.
    pub cpu: String,
    /// What is left out because of single hosts.
    pub limits: Vec<Limit>,
}

/// A host that keeps others from showing something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The host.
    pub host: String,
    /// What it lacks and another has.
    pub lacks: Vec<String>,
}

/// Why some hosts have nothing in common.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BaselineError {
    /// None were named.
    #[error("There are no hosts to compare")]
    Nothing,
    /// Machines do not move between makers.
    #[error(
        "Host '{first}' has a processor of {first_vendor} and host '{second}' one of {second_vendor}: machines do not move between these"
    )]
    Vendors {
        /// A host.
        first: String,
        /// Its maker.
        first_vendor: String,
        /// Another host.
        second: String,
        /// Its maker.
        second_vendor: String,
    },
    /// Not even the least model.
    #[error("The hosts do not have the features of a 64-bit processor in common: {0} are missing")]
    TooLittle(String),
}

/// The largest model that all of `hosts` can show, with all that they have in common beyond it, and which host limits that.
///
/// # Errors
/// They have nothing in common that a machine could run on.
pub fn baseline(hosts: &[HostCpu]) -> Result<Baseline, BaselineError> {
    let first = hosts.first().ok_or(BaselineError::Nothing)?;
    if let Some(other) = hosts.iter().find(|host| host.vendor != first.vendor) {
        return Err(BaselineError::Vendors {
            first: first.host.clone(),
            first_vendor: first.vendor.clone(),
            second: other.host.clone(),
            second_vendor: other.vendor.clone(),
        });
    }
    // What a later release knows is left out: it could not be asked for here.
    let known = |host: &HostCpu| -> BTreeSet<&'static str> {
        let names = host.features.iter().filter_map(|name| by_name(name)).map(|feature| feature.name);
        names.filter(|name| !CpuModel::is_fixed(name)).collect()
    };
    let each: Vec<_> = hosts.iter().map(known).collect();
    let all: BTreeSet<_> = each.iter().flatten().copied().collect();
    let common: BTreeSet<_> =
        all.iter().copied().filter(|name| each.iter().all(|host| host.contains(name))).collect();
    let is_theirs = |model: &&Model| model.vendor.is_none_or(|vendor| vendor == first.vendor);
    let fits = MODELS.iter().filter(is_theirs).filter(|model| model.features().is_subset(&common));
    let Some(model) = fits.max_by_key(|model| (model.features().len(), model.name.starts_with("x86-64")))
    else {
        let missing: Vec<_> = MODELS[0].features().difference(&common).copied().collect();
        return Err(BaselineError::TooLittle(missing.join(", ")));
    };
    let more = common.difference(&model.features()).map(|name| format!(",+{name}")).collect::<String>();
    let limits = hosts.iter().zip(&each).map(|(host, has)| Limit {
        host: host.host.clone(),
        lacks: all.difference(has).map(|name| (*name).to_owned()).collect(),
    });
    Ok(Baseline {
        cpu: format!("{}{more}", model.name),
        limits: limits.filter(|limit| !limit.lacks.is_empty()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, model: &str, more: &[&str]) -> HostCpu {
        let model = MODELS.iter().find(|known| known.name == model).unwrap();
        let features = model.features().into_iter().chain(more.iter().copied());
        HostCpu {
            host: name.into(),
            vendor: "AuthenticAMD".into(),
            brand: "test".into(),
            features: features.map(str::to_owned).collect(),
        }
    }

    #[test]
    fn unlike_hosts_have_a_model_in_common_and_each_limit_is_named() {
        let hosts = [
            host("a", "x86-64-v4", &["aes", "gfni"]),
            host("b", "x86-64-v3", &["aes", "svm", "of-the-future"]),
        ];
        let found = baseline(&hosts).unwrap();
        assert_eq!(found.cpu, "x86-64-v3,+aes");
        let lacks = ["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl", "gfni"];
        assert_eq!(found.limits, [Limit { host: "b".into(), lacks: lacks.map(str::to_owned).to_vec() }]);
        let cpu: CpuModel = found.cpu.parse().unwrap();
        for host in &hosts {
            let features = host.features.iter().filter_map(|name| by_name(name)).map(|it| it.name).collect();
            assert_eq!(cpu.lacking_on(&features), Vec::<&str>::new(), "{}", host.host);
        }
    }

    #[test]
    fn a_host_shows_every_model_that_it_has_all_of() {
        let models: Vec<_> = host("a", "Westmere", &["avx"]).models().collect();
        assert_eq!(models, ["x86-64", "x86-64-v2", "Conroe", "Penryn", "Nehalem", "Westmere"]);
    }

    #[test]
    fn hosts_that_are_alike_limit_nothing() {
        let found = baseline(&[host("a", "EPYC", &[]), host("b", "EPYC", &[])]).unwrap();
        assert_eq!(found, Baseline { cpu: "EPYC".into(), limits: Vec::new() });
    }

    #[test]
    fn what_hosts_have_in_common_is_not_called_by_the_name_of_another_makers_processor() {
        let intel = HostCpu { vendor: "GenuineIntel".into(), ..host("i", "IvyBridge", &[]) };
        assert_eq!(baseline(std::slice::from_ref(&intel)).unwrap().cpu, "IvyBridge");
        let amd = HostCpu { vendor: "AuthenticAMD".into(), ..intel };
        assert!(baseline(&[amd]).unwrap().cpu.starts_with("x86-64-v2,+aes,"));
    }

    #[test]
    fn hosts_of_two_makers_and_no_hosts_have_nothing_in_common() {
        let intel = HostCpu { vendor: "GenuineIntel".into(), ..host("i", "x86-64-v3", &[]) };
        assert!(matches!(
            baseline(&[host("a", "x86-64-v3", &[]), intel]),
            Err(BaselineError::Vendors { .. })
        ));
        assert_eq!(baseline(&[]), Err(BaselineError::Nothing));
        let none = HostCpu { features: BTreeSet::new(), ..host("a", "x86-64", &[]) };
        assert!(matches!(baseline(&[none]), Err(BaselineError::TooLittle(_))));
    }
}
