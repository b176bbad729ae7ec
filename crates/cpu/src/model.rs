use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::{FEATURES, Feature, by_name, near::nearest};

/// What a machine sees of its processor: everything that its host can show and move (`host`), or a model, which is the same on every
/// host that has its features; and single features more or less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuModel {
    /// `None` is the host's own.
    model: Option<&'static Model>,
    more: Vec<&'static Feature>,
    less: Vec<&'static Feature>,
}

/// A model with a name.
#[derive(Debug, PartialEq, Eq)]
pub struct Model {
    /// Its name, as QEMU has it.
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    /// Whose processor it is, as that names itself.
    pub vendor: Option<&'static str>,
    /// The model that it has all features of, too.
    extends: Option<&'static str>,
    features: &'static [&'static str],
}

/// Why a text is no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuModelError {
    /// There is none of this name.
    #[error("There is no CPU model '{typed}'{}: `whimbrel-vmm --cpu help` lists them", meant(*near))]
    Model {
        /// As typed.
        typed: String,
        /// What it may have been meant to be.
        near: Option<&'static str>,
    },
    /// There is none of this name.
    #[error(
        "There is no CPU feature '{typed}'{}: write +NAME or -NAME, `whimbrel-vmm --cpu help` lists them", meant(*near)
    )]
    Feature {
        /// As typed.
        typed: String,
        /// What it may have been meant to be.
        near: Option<&'static str>,
    },
    /// It is what the machine's hypervisor decides on.
    #[error(
        "CPU feature '{0}' cannot be chosen: it follows from the number of vCPUs, from KVM, or cannot be moved"
    )]
    Fixed(String),
    /// Twice, or on and off.
    #[error("CPU feature '{0}' is there twice")]
    Twice(String),
}

/// Features that follow from something else than the model, or that no machine of ours has because they cannot be moved.
pub(crate) const FIXED: [&str; 15] = [
    "ht",
    "cmp-legacy",
    "hypervisor",
    "tsc-deadline",
    "x2apic",
    "tsc-adjust",
    "arat",
    "vmx",
    "svm",
    "sgx",
    "sgxlc",
    "monitor",
    "arch-capabilities",
    "intel-pt",
    "topoext",
];

/// Without `vme`: some hosts do not have it, and nothing of 64 bits can use it.
const BASE: &[&str] = &[
    "fpu", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "sep", "mtrr", "pge", "mca", "cmov",
    "pat", "pse36", "clflush", "mmx", "fxsr", "sse", "sse2", "syscall", "nx", "lm",
];

/// All models, each after the one that it extends. The levels are those of the x86-64 psABI (section 3.1.1, "Processor Architecture").
pub static MODELS: [Model; 27] = [
    level("x86-64", "level 1: every 64-bit processor", None, BASE),
    level(
        "x86-64-v2",
        "level 2: since about 2009",
        Some("x86-64"),
        &["pni", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16", "lahf-lm"],
    ),
    level(
        "x86-64-v3",
        "level 3: since about 2015",
        Some("x86-64-v2"),
        &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave", "abm"],
    ),
    level(
        "x86-64-v4",
        "level 4: with AVX-512",
        Some("x86-64-v3"),
        &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
    ),
    intel("Conroe", "Intel, 2006", "x86-64", &["pni", "ssse3", "lahf-lm"]),
    intel("Penryn", "Intel, 2007", "Conroe", &["cx16", "sse4.1"]),
    intel("Nehalem", "Intel, 2008", "x86-64-v2", &[]),
    intel("Westmere", "Intel, 2010", "Nehalem", &["aes", "pclmulqdq"]),
    intel("SandyBridge", "Intel, 2011", "Westmere", &["avx", "xsave", "xsaveopt", "rdtscp"]),
    intel("IvyBridge", "Intel, 2012", "SandyBridge", &["f16c", "rdrand", "fsgsbase", "smep", "erms"]),
    intel(
        "Haswell-noTSX",
        "Intel, 2013, without transactions",
        "IvyBridge",
        &["fma", "movbe", "pcid", "bmi1", "avx2", "bmi2", "invpcid", "abm"],
    ),
    intel(
        "Broadwell-noTSX",
        "Intel, 2014, without transactions",
        "Haswell-noTSX",
        &["rdseed", "adx", "smap", "3dnowprefetch"],
    ),
    intel("Nehalem-IBRS", "Intel, 2008, with SPEC_CTRL", "Nehalem", &["spec-ctrl"]),
    intel("Westmere-IBRS", "Intel, 2010, with SPEC_CTRL", "Westmere", &["spec-ctrl"]),
    intel("SandyBridge-IBRS", "Intel, 2011, with SPEC_CTRL", "SandyBridge", &["spec-ctrl"]),
    intel("IvyBridge-IBRS", "Intel, 2012, with SPEC_CTRL", "IvyBridge", &["spec-ctrl"]),
    intel("Haswell-noTSX-IBRS", "Intel, 2013, with SPEC_CTRL", "Haswell-noTSX", &["spec-ctrl"]),
    intel("Broadwell-noTSX-IBRS", "Intel, 2014, with SPEC_CTRL", "Broadwell-noTSX", &["spec-ctrl"]),
    intel(
        "Skylake-Client-noTSX-IBRS",
        "Intel, 2015, without transactions",
        "Broadwell-noTSX-IBRS",
        &["xsavec", "xgetbv1"],
    ),
    intel(
        "Skylake-Server-noTSX-IBRS",
        "Intel, 2017, without transactions",
        "Skylake-Client-noTSX-IBRS",
        &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "clwb", "pdpe1gb", "pku"],
    ),
    intel(
        "Cascadelake-Server-noTSX",
        "Intel, 2019, without transactions",
        "Skylake-Server-noTSX-IBRS",
        &["avx512vnni", "clflushopt", "ssbd"],
    ),
    intel("Cooperlake", "Intel, 2020", "Cascadelake-Server-noTSX", &["avx512-bf16", "hle", "rtm", "stibp"]),
    intel(
        "Icelake-Server-noTSX",
        "Intel, 2021, without transactions",
        "Cascadelake-Server-noTSX",
        &[
            "avx512vbmi",
            "avx512vbmi2",
            "avx512bitalg",
            "avx512-vpopcntdq",
            "gfni",
            "vaes",
            "vpclmulqdq",
            "la57",
            "umip",
            "wbnoinvd",
        ],
    ),
    amd(
        "EPYC",
        "AMD, 2017",
        "x86-64-v3",
        &[
            "rdrand",
            "aes",
            "pclmulqdq",
            "rdtscp",
            "pdpe1gb",
            "fxsr-opt",
            "mmxext",
            "osvw",
            "3dnowprefetch",
            "misalignsse",
            "sse4a",
            "cr8legacy",
            "fsgsbase",
            "smep",
            "rdseed",
            "adx",
            "smap",
            "clflushopt",
            "sha-ni",
            "xsaveopt",
            "xsavec",
            "xgetbv1",
        ],
    ),
    amd("EPYC-IBPB", "AMD, 2017, with IBPB", "EPYC", &["ibpb"]),
    amd(
        "EPYC-Rome",
        "AMD, 2019",
        "EPYC-IBPB",
        &["amd-stibp", "clwb", "clzero", "perfctr-core", "rdpid", "umip", "wbnoinvd", "xsaveerptr", "xsaves"],
    ),
    amd(
        "EPYC-Milan",
        "AMD, 2021",
        "EPYC-Rome",
        &["amd-ssbd", "erms", "fsrm", "ibrs", "invpcid", "pcid", "pku"],
    ),
];

type Names = &'static [&'static str];

const fn level(
    name: &'static str,
    about: &'static str,
    extends: Option<&'static str>,
    features: Names,
) -> Model {
    Model { name, about, vendor: None, extends, features }
}

const fn intel(name: &'static str, about: &'static str, extends: &'static str, features: Names) -> Model {
    Model { name, about, vendor: Some("GenuineIntel"), extends: Some(extends), features }
}

const fn amd(name: &'static str, about: &'static str, extends: &'static str, features: Names) -> Model {
    Model { name, about, vendor: Some("AuthenticAMD"), extends: Some(extends), features }
}

impl Model {
    /// All of its features.
    #[must_use]
    pub fn features(&self) -> BTreeSet<&'static str> {
        let base = self.extends.and_then(find).map(Self::features).unwrap_or_default();
        base.into_iter().chain(self.features.iter().copied()).collect()
    }
}

impl CpuModel {
    /// All that the host can show.
    pub const HOST: Self = Self { model: None, more: Vec::new(), less: Vec::new() };

    /// Whether nothing is to be hidden or asked for.
    #[must_use]
    pub fn is_host(&self) -> bool {
        *self == Self::HOST
    }

    /// The features that a machine has on every host, besides those that nobody can choose; or what to leave out of the host's.
    #[must_use]
    pub fn features_of(&self, host: &BTreeSet<&'static str>) -> BTreeSet<&'static str> {
        let base = self.model.map_or_else(|| host.clone(), Model::features);
        let names = |features: &[&'static Feature]| -> Vec<_> {
            features.iter().map(|feature| feature.name).collect()
        };
        let less = names(&self.less);
        base.into_iter().chain(names(&self.more)).filter(|name| !less.contains(name)).collect()
    }

    /// What of it a host lacks. None: the machine can run there.
    #[must_use]
    pub fn lacking_on(&self, host: &BTreeSet<&'static str>) -> Vec<&'static str> {
        self.features_of(host).difference(host).copied().collect()
    }

    /// Whether the machine is to be the same on every host, so that what has no name must be hidden.
    #[must_use]
    pub fn is_model(&self) -> bool {
        self.model.is_some()
    }

    /// Whether a feature follows from something else than a model.
    #[must_use]
    pub fn is_fixed(feature: &str) -> bool {
        FIXED.contains(&feature)
    }
}

impl FromStr for CpuModel {
    type Err = CpuModelError;

    fn from_str(typed: &str) -> Result<Self, CpuModelError> {
        let mut parts = typed.split(',');
        let name = parts.next().unwrap_or_default();
        let model = match name {
            "host" => None,
            _ => Some(find(name).ok_or_else(|| no_model(name))?),
        };
        let mut cpu = Self { model, ..Self::HOST };
        for part in parts {
            let (name, on) = switched(part).ok_or_else(|| no_feature(part))?;
            let feature = by_name(name).ok_or_else(|| no_feature(name))?;
            if FIXED.contains(&feature.name) {
                return Err(CpuModelError::Fixed(feature.name.into()));
            }
            if cpu.more.contains(&feature) || cpu.less.contains(&feature) {
                return Err(CpuModelError::Twice(feature.name.into()));
            }
            if on { &mut cpu.more } else { &mut cpu.less }.push(feature);
        }
        Ok(cpu)
    }
}

/// `+NAME`, `-NAME`, `NAME=on` or `NAME=off`.
fn switched(part: &str) -> Option<(&str, bool)> {
    match (part.strip_prefix('+'), part.strip_prefix('-'), part.split_once('=')) {
        (Some(name), _, _) => Some((name, true)),
        (_, Some(name), _) => Some((name, false)),
        (_, _, Some((name, "on"))) => Some((name, true)),
        (_, _, Some((name, "off"))) => Some((name, false)),
        _ => None,
    }
}

impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model.map_or("host", |model| model.name))?;
        self.more.iter().try_for_each(|feature| write!(f, ",+{}", feature.name))?;
        self.less.iter().try_for_each(|feature| write!(f, ",-{}", feature.name))
    }
}

fn find(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name)
}

/// What QEMU, libvirt and KubeVirt call all that a host has.
const HOST_ELSEWHERE: [&str; 3] = ["max", "host-passthrough", "host-model"];

fn no_model(typed: &str) -> CpuModelError {
    let names = MODELS.iter().map(|model| model.name).chain(["host"]);
    let near = if HOST_ELSEWHERE.contains(&typed) { Some("host") } else { nearest(typed, names) };
    CpuModelError::Model { typed: shown(typed), near }
}

fn no_feature(typed: &str) -> CpuModelError {
    let names = FEATURES.iter().map(|feature| feature.name).filter(|name| !CpuModel::is_fixed(name));
    CpuModelError::Feature { typed: shown(typed), near: nearest(typed, names) }
}

fn meant(near: Option<&str>) -> String {
    near.map_or_else(String::new, |name| format!(" (did you mean '{name}'?)"))
}

fn shown(typed: &str) -> String {
    typed.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(level: &str) -> BTreeSet<&'static str> {
        find(level).unwrap().features()
    }

    #[test]
    fn every_feature_of_a_model_is_known_and_nobodys_but_the_models_to_choose() {
        for model in &MODELS {
            for feature in model.features() {
                assert!(by_name(feature).is_some() && !FIXED.contains(&feature), "{}: {feature}", model.name);
            }
        }
        assert!(FIXED.iter().all(|fixed| by_name(fixed).is_some()));
    }

    #[test]
    fn a_model_is_the_same_on_every_host_that_has_it() {
        let cpu: CpuModel = "x86-64-v2,+aes,-popcnt".parse().unwrap();
        let (mut v3, v4) = (host("x86-64-v3"), host("x86-64-v4"));
        assert_eq!(cpu.lacking_on(&v3), ["aes"]);
        v3.insert("aes");
        assert_eq!(cpu.lacking_on(&v3), Vec::<&str>::new());
        assert_eq!(cpu.features_of(&v3), cpu.features_of(&v4));
        assert!(cpu.features_of(&v3).contains("aes") && !cpu.features_of(&v3).contains("popcnt"));
        assert_eq!("x86-64-v4".parse::<CpuModel>().unwrap().lacking_on(&v3).len(), 5);
    }

    #[test]
    fn the_host_less_a_feature_is_the_rest_of_the_host() {
        let cpu: CpuModel = "host,-avx2".parse().unwrap();
        let v3 = host("x86-64-v3");
        let mut rest = v3.clone();
        rest.remove("avx2");
        assert_eq!(cpu.features_of(&v3), rest);
        assert!(!cpu.is_host() && !cpu.is_model());
    }

    #[test]
    fn models_print_as_they_are_typed() {
        for typed in ["host", "host,-avx2", "x86-64-v3,+aes,+sha-ni,-movbe", "EPYC"] {
            assert_eq!(typed.parse::<CpuModel>().unwrap().to_string(), typed);
        }
        assert_eq!("host,avx2=off,aes=on".parse::<CpuModel>().unwrap().to_string(), "host,+aes,-avx2");
    }

    #[test]
    fn what_is_no_model_or_no_feature_is_refused_by_name() {
        for (typed, said) in [
            ("", "no CPU model '':"),
            ("epyc", "no CPU model 'epyc' (did you mean 'EPYC'?)"),
            ("Host", "no CPU model 'Host' (did you mean 'host'?)"),
            ("host-passthrough", "no CPU model 'host-passthrough' (did you mean 'host'?)"),
            ("host,", "no CPU feature '':"),
            ("host,avx2", "no CPU feature 'avx2' (did you mean 'avx2'?): write +NAME or -NAME"),
            ("host,-sse42", "no CPU feature 'sse42' (did you mean 'sse4.2'?)"),
            ("host,-nonsense", "no CPU feature 'nonsense':"),
            ("host,+svm", "'svm' cannot be chosen"),
            ("host,-aes,+aes", "'aes' is there twice"),
        ] {
            let error = typed.parse::<CpuModel>().unwrap_err().to_string();
            assert!(error.contains(said), "{typed}: {error}");
        }
    }
}
