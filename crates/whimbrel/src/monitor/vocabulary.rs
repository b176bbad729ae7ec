use ::monitor::{
    Client, ClientError,
    types::{MigrationCapability, qcode_names},
};
use serde_json::Value;

/// The words that a monitor understands, as it says itself: for telling QMP from the human monitor, and for completion.
#[derive(Clone, Debug, Default)]
pub(super) struct Vocabulary {
    /// Commands of the human monitor.
    pub(super) human: Vec<String>,
    /// Commands of QMP.
    pub(super) qmp: Vec<String>,
    /// What `info` can show.
    pub(super) topics: Vec<String>,
    /// Parameters of migration.
    pub(super) parameters: Vec<String>,
}

/// Arguments of the QMP commands that have some.
const QMP_ARGUMENTS: [(&str, &[&str]); 14] = [
    ("migrate", &["uri="]),
    ("migrate-incoming", &["uri=", "exit-on-error="]),
    ("migrate-continue", &["state=pre-switchover"]),
    ("migrate-set-capabilities", &[r#"capabilities=[{"capability":""#]),
    ("calc-dirty-rate", &["calc-time=", "calc-time-unit=", "sample-pages=", "mode="]),
    ("query-dirty-rate", &["calc-time-unit="]),
    ("set-vcpu-dirty-limit", &["cpu-index=", "dirty-rate="]),
    ("cancel-vcpu-dirty-limit", &["cpu-index="]),
    ("whimbrel-predict", &["bandwidth=", "uri=", "time="]),
    ("dump-guest-memory", &["paging=false", "protocol=file:", "detach="]),
    ("balloon", &["value="]),
    ("announce-self", &["initial=", "max=", "rounds=", "step="]),
    ("send-key", &[r#"keys=[{"type":"qcode","data":""#, "hold-time="]),
    ("human-monitor-command", &["command-line="]),
];

impl Vocabulary {
    /// Asks the monitor for its words.
    pub(super) fn learn(client: &mut Client) -> Result<Self, ClientError> {
        let commands = client.execute("query-commands", Value::Null)?;
        let qmp = commands.as_array().into_iter().flatten();
        let qmp = qmp.filter_map(|command| Some(command.get("name")?.as_str()?.to_owned())).collect();
        let human = names_in_help(&client.human("help")?, "");
        let topics = names_in_help(&client.human("info")?, "info ");
        let parameters = client.execute("query-migrate-parameters", Value::Null)?;
        let parameters = parameters.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
        Ok(Self { human, qmp, topics, parameters })
    }

    pub(super) fn is_human(&self, command: &str) -> bool {
        self.human.iter().any(|name| name == command)
    }

    pub(super) fn is_qmp(&self, command: &str) -> bool {
        self.qmp.iter().any(|name| name == command)
    }

    /// What may stand after these words.
    pub(super) fn candidates(&self, before: &[&str]) -> Vec<String> {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match before {
            [] => self.commands(),
            ["info"] => self.topics.clone(),
            ["help" | "?"] => self.human.clone(),
            ["migrate_set_parameter"] => self.parameters.clone(),
            ["migrate_set_capability"] => MigrationCapability::ALL.iter().map(ToString::to_string).collect(),
            ["migrate_set_capability", _] => own(&["on", "off"]),
            ["migrate_continue"] => own(&["pre-switchover"]),
            ["migrate"] => own(&["-d", "tcp:", "unix:", "uri="]),
            ["migrate", "-d"] | ["migrate_incoming"] => own(&["tcp:", "unix:"]),
            ["sendkey"] => qcode_names().map(str::to_owned).collect(),
            ["migrate-set-parameters", ..] => self.parameters.iter().map(|name| format!("{name}=")).collect(),
            [command, ..] if self.is_qmp(command) => QMP_ARGUMENTS
                .iter()
                .find(|(name, _)| name == command)
                .map(|(_, words)| own(words))
                .unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// The commands of both monitors, and the prompt's own.
    fn commands(&self) -> Vec<String> {
        let mut names = [self.human.clone(), self.qmp.clone(), vec!["exit".to_owned()]].concat();
        names.sort();
        names.dedup();
        names
    }
}

/// The names that a help text lists: each line that explains a command has ` -- `; aliases follow after `|`.
fn names_in_help(text: &str, prefix: &str) -> Vec<String> {
    let names = text.lines().filter(|line| line.contains(" -- ")).filter_map(|line| {
        let word = line.strip_prefix(prefix)?.split_whitespace().next()?;
        Some(word.split('|').map(str::to_owned))
    });
    names.flatten().collect()
}
