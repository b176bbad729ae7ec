use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// First settings of the guest, as cloud-init's source NoCloud has them: of each kind at most one field. A Secret has `userdata` or `userData`,
/// `networkdata` or `networkData`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloudInitNoCloud {
    /// The Secret, in the same namespace, that has the user data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretName>,
    /// User data: users, keys, packages, commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub user_data: Option<String>,
    /// The same in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 87384))]
    pub user_data_base64: Option<String>,
    /// The Secret, in the same namespace, that has the network data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_data_secret_ref: Option<SecretName>,
    /// Network data: version 1 or 2 of cloud-init's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub network_data: Option<String>,
    /// The same in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 87384))]
    pub network_data_base64: Option<String>,
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretName {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Where a part of the settings is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeedPart<'a> {
    /// It was not said.
    None,
    /// Here.
    Here(Vec<u8>),
    /// In a Secret, by any of these keys.
    Secret {
        /// Its name.
        name: &'a str,
        /// Keys, the first that is there counts.
        keys: [&'static str; 2],
    },
}

/// A part of the settings in each of the ways in which it can be said.
pub(crate) struct Ways<'a> {
    pub(crate) plain: Option<&'a str>,
    pub(crate) base64: Option<&'a str>,
    pub(crate) secret: Option<&'a SecretName>,
}

impl CloudInitNoCloud {
    pub(crate) fn user(&self) -> Ways<'_> {
        Ways {
            plain: self.user_data.as_deref(),
            base64: self.user_data_base64.as_deref(),
            secret: self.secret_ref.as_ref(),
        }
    }

    pub(crate) fn network(&self) -> Ways<'_> {
        Ways {
            plain: self.network_data.as_deref(),
            base64: self.network_data_base64.as_deref(),
            secret: self.network_data_secret_ref.as_ref(),
        }
    }

    /// Where the user data is.
    #[must_use]
    pub fn user_part(&self) -> SeedPart<'_> {
        self.user().part(["userdata", "userData"])
    }

    /// Where the network data is.
    #[must_use]
    pub fn network_part(&self) -> SeedPart<'_> {
        self.network().part(["networkdata", "networkData"])
    }

    /// The Secrets that it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        [&self.secret_ref, &self.network_data_secret_ref]
            .into_iter()
            .flatten()
            .map(|secret| secret.name.as_str())
    }
}

impl<'a> Ways<'a> {
    /// How many of them are taken.
    pub(crate) fn count(&self) -> usize {
        [self.plain.is_some(), self.base64.is_some(), self.secret.is_some()]
            .into_iter()
            .filter(|is| *is)
            .count()
    }

    /// What was checked when it was stored decodes.
    fn part(&self, keys: [&'static str; 2]) -> SeedPart<'a> {
        if let Some(secret) = self.secret {
            return SeedPart::Secret { name: &secret.name, keys };
        }
        match (self.plain, self.base64) {
            (Some(text), _) => SeedPart::Here(text.as_bytes().to_vec()),
            (None, Some(text)) => SeedPart::Here(decoded(text).unwrap_or_default()),
            (None, None) => SeedPart::None,
        }
    }
}

/// What base64 stands for; line breaks in it count for nothing, as in YAML.
pub(crate) fn decoded(text: &str) -> Option<Vec<u8>> {
    let text: String = text.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_say_it_says_the_same() {
        let of = |field: serde_json::Value| serde_json::from_value::<CloudInitNoCloud>(field).unwrap();
        let plain = of(serde_json::json!({ "userData": "#cloud-config\n" }));
        let base64 = of(serde_json::json!({ "userDataBase64": "I2Nsb3Vk\nLWNvbmZpZwo=" }));
        assert_eq!(plain.user_part(), base64.user_part());
        assert_eq!(plain.network_part(), SeedPart::None);
        let secret =
            of(serde_json::json!({ "secretRef": { "name": "s" }, "networkDataSecretRef": { "name": "n" } }));
        assert_eq!(secret.user_part(), SeedPart::Secret { name: "s", keys: ["userdata", "userData"] });
        assert_eq!(secret.secrets().collect::<Vec<_>>(), ["s", "n"]);
    }
}
