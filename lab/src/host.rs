//! An emulated host: QEMU's software processor with virtualisation (SVM), a stock kernel, and our agent.

use std::{
    fs::{self, File},
    io::BufReader,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use agent::{Introduction, read_line};
use parking_lot::Mutex;

use crate::{Images, LabError, Pace, Remote, programs::last_lines, remote::Waiting, vmm::WATCHDOGS};

/// A host that boots, which takes 5 to 10 seconds, says something all the time.
const SILENCE: Duration = Duration::from_secs(60);
/// How often a host is booted whose clocks are wrong, which happens on a busy machine.
const BOOTS: u32 = 8;
/// What such a host says.
const UNKNOWN_CLOCK: &str = "lab: the time-stamp counter is not known";
/// What a host's kernel says when its QEMU does not take frames any more, which was seen once in some hundred scenarios.
const LOST_CARD: [&str; 2] = ["NETDEV WATCHDOG", "uplink"];
/// Memory of a host, in MiB.
const MEMORY_MIB: u32 = 1536;
/// Lines of a console that are worth showing.
const SHOWN_LINES: usize = 25;
/// How long a connection may take to say whose it is.
const INTRODUCTION: Duration = Duration::from_secs(30);

/// An emulated host. It is killed when this is dropped.
#[derive(Debug)]
pub struct Host {
    name: String,
    number: u8,
    remote: Remote,
    waiting: Arc<Waiting>,
    port: u16,
    token: String,
    console: PathBuf,
    card: PathBuf,
    disks: Vec<PathBuf>,
    qemu: Mutex<Option<Child>>,
    /// Features that its processor does not have.
    lacks: Mutex<Vec<&'static str>>,
    pace: Arc<Pace>,
}

/// What a host is plugged into.
#[derive(Debug)]
pub(crate) struct Plugs<'a> {
    /// The socket of its network card.
    pub(crate) card: PathBuf,
    /// Disk images; others may have the same.
    pub(crate) disks: &'a [PathBuf],
    /// Where logs go.
    pub(crate) logs: &'a Path,
    /// How long things may take in it.
    pub(crate) pace: &'a Arc<Pace>,
}

impl Host {
    /// A host that is switched off. `number` is the last byte of its address.
    pub(crate) fn new(name: &str, number: u8, plugs: Plugs<'_>) -> Result<Self, LabError> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(LabError::system("listen on 127.0.0.1"))?;
        let port = listener.local_addr().map_err(LabError::system("listen on 127.0.0.1"))?.port();
        let waiting = Arc::new(Waiting::default());
        let token = random_token()?;
        let (theirs, expected) = (waiting.clone(), token.clone());
        thread::spawn(move || accept(&listener, &expected, &theirs));
        Ok(Self {
            name: name.into(),
            number,
            remote: Remote::dialled(name, waiting.clone(), plugs.pace.clone()),
            waiting,
            port,
            token,
            console: plugs.logs.join(format!("host-{name}.console")),
            card: plugs.card,
            disks: plugs.disks.to_vec(),
            qemu: Mutex::new(None),
            lacks: Mutex::default(),
            pace: plugs.pace.clone(),
        })
    }

    /// From its next boot on its processor does not have these features, by QEMU's names.
    pub fn lack(&self, features: &[&'static str]) {
        *self.lacks.lock() = features.to_vec();
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address in the network between the hosts.
    #[must_use]
    pub fn address(&self) -> String {
        format!("10.99.0.{}", self.number)
    }

    /// Whether its kernel has said, after the first `from` bytes of its console, that the card to the other hosts takes nothing any
    /// more. The agent has a card of its own.
    #[must_use]
    pub fn has_lost_its_network(&self, from: usize) -> bool {
        let console = self.console();
        let lost = |line: &str| LOST_CARD.iter().all(|part| line.contains(part));
        self.is_on() && console.get(from..).is_some_and(|said| said.lines().any(lost))
    }

    /// Its agent.
    #[must_use]
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Switches it on, without waiting.
    ///
    /// It is killed when the thread that calls this ends, so that nothing is left of a lab that was killed.
    pub(crate) fn switch_on(&self, images: &Images) -> Result<(), LabError> {
        self.kill();
        let file = |what| LabError::file(what, &self.console);
        let log = File::create(self.console.with_extension("qemu")).map_err(file("create a log beside"))?;
        // The console of the boot before, if there was one, is still of interest.
        if self.console.exists() {
            fs::rename(&self.console, self.console.with_extension("console.before"))
                .map_err(file("rename"))?;
        }
        // Its clocks run with this machine's: a host that gets no time does nothing but count its ticks. Who is not root may not
        // put it first, and is warned of that.
        let child = Command::new("nice")
            .args(["-n", "-10", "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(self.arguments(images))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(LabError::system("start qemu-system-x86_64"))?;
        *self.qemu.lock() = Some(child);
        Ok(())
    }

    /// Waits until its agent is there. A host that could not find out how fast its clocks run is booted once more.
    pub(crate) fn wait(&self, images: &Images) -> Result<(), LabError> {
        for _ in 1..BOOTS {
            match self.wait_once() {
                Err(_) if self.console().contains(UNKNOWN_CLOCK) => self.switch_on(images)?,
                result => return result,
            }
        }
        self.wait_once()
    }

    fn wait_once(&self) -> Result<(), LabError> {
        let begun = Instant::now();
        let up = self.pace.while_it_moves("its agent reports", SILENCE, || {
            if let Some(stream) = self.waiting.pop(Duration::from_millis(50)) {
                self.waiting.push(stream);
                return Ok(Ok(()));
            }
            if !self.is_on() {
                return Err(self.error("ended before its agent was there"));
            }
            Ok(Err(fs::metadata(&self.console).map_or(0, |console| console.len())))
        });
        match up {
            Err(LabError::Late { .. }) => {
                let waited = begun.elapsed().as_secs();
                Err(self
                    .error(&format!("hangs, or this machine is very busy: it was not up after {waited} s")))
            }
            up => up,
        }
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_on(&self) -> bool {
        let mut qemu = self.qemu.lock();
        qemu.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none()))
    }

    /// Pulls its plug.
    pub fn kill(&self) {
        if let Some(mut child) = self.qemu.lock().take() {
            // Fails only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.waiting.clear();
    }

    /// What it wrote on its console.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    fn error(&self, what: &str) -> LabError {
        let qemu = fs::read_to_string(self.console.with_extension("qemu")).unwrap_or_default();
        // What its processor lacks is no news, nor is that a user is not root.
        let news =
            |line: &&str| !line.contains("TCG doesn't support") && !line.contains("cannot set niceness");
        let qemu: Vec<_> = qemu.lines().filter(news).collect();
        let tail = format!("{}\n{}", last_lines(&self.console(), SHOWN_LINES), qemu.join("\n"));
        LabError::Host { host: self.name.clone(), what: what.into(), console: self.console.clone(), tail }
    }

    fn arguments(&self, images: &Images) -> Vec<String> {
        let number = self.number;
        let command_line = format!(
            "console=ttyS0 panic=-1 mitigations=off tsc=reliable no_timer_check {WATCHDOGS} lab.name={} lab.number={number} lab.port={} lab.token={}",
            self.name, self.port, self.token
        );
        let lacks: String = self.lacks.lock().iter().map(|name| format!(",-{name}")).collect();
        let processor = format!("EPYC,+svm,+npt{lacks}");
        let mut arguments: Vec<String> = [
            "-name",
            &format!("whimbrel-lab-{}", self.name),
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            &processor,
            // One processor: with two, QEMU 7.2 and 10.0 now and then mix a guest's processor state up with its host's.
            "-smp",
            "1",
            "-m",
            &MEMORY_MIB.to_string(),
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            &format!("file:{}", self.console.display()),
            "-kernel",
            &images.vmlinuz.display().to_string(),
            "-initrd",
            &images.host.display().to_string(),
            "-append",
            &command_line,
            "-netdev",
            "user,id=control,restrict=off",
            "-device",
            &format!("virtio-net-pci,netdev=control,romfile=,mac=52:54:00:00:00:{number:02x}"),
            "-netdev",
            &format!("stream,id=uplink,server=off,addr.type=unix,addr.path={}", self.card.display()),
            "-device",
            &format!("virtio-net-pci,netdev=uplink,romfile=,mac=52:54:00:00:01:{number:02x}"),
        ]
        .map(str::to_owned)
        .into();
        for (index, disk) in self.disks.iter().enumerate() {
            // What one host has written is there for the other, and nothing is locked: as on a storage network.
            let drive = format!(
                "file={},format=raw,if=none,id=disk{index},cache=none,file.locking=off",
                disk.display()
            );
            arguments.extend(["-drive".into(), drive]);
            arguments.extend(["-device".into(), format!("virtio-blk-pci,drive=disk{index},share-rw=on")]);
        }
        arguments
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Takes in connections from the host's agent, and nobody else's.
fn accept(listener: &TcpListener, token: &str, waiting: &Waiting) {
    for stream in listener.incoming().flatten() {
        let introduced = stream.set_read_timeout(Some(INTRODUCTION)).and_then(|()| {
            stream.set_nodelay(true)?;
            read_line::<Introduction>(&mut BufReader::new(&stream))
        });
        if introduced.is_ok_and(|introduction| introduction.is_some_and(|who| who.token == token)) {
            waiting.push(stream);
        }
    }
}

fn random_token() -> Result<String, LabError> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| LabError::system("read random numbers")(error.into()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
