//! `insula exec` and `insula run`: a command in an instance, or in one that is made for it, as if it ran here. Its end is ours;
//! what fails on the way ends with 125.

mod terminal;

use std::{
    io::{self, IsTerminal, Read, Write},
    process::ExitCode,
    time::Duration,
};

use insula_api::{Client, ExecSession, wire::InstanceState};
use insula_env::clock;
use insula_types::{ExecInput, ExecOutput, ExecSpec, InstanceId, ServiceRef, SignalNumber};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use self::terminal::Raw;
use crate::{
    Exit, Failure,
    args::{AppSource, CommandArgs, ExecArgs, ExecTarget, RunArgs},
};

/// Bytes of input that are read at once.
const PIECE_LEN: usize = 32 << 10;
/// Pieces that wait for a slow terminal, or for a command that does not read.
const WAITING_MAX: usize = 2;
/// How long a command that does not read may hold up a signal that comes after its input.
const SIGNAL_LIMIT: Duration = Duration::from_secs(1);

/// In an instance that runs.
pub async fn exec(client: &Client, args: &ExecArgs) -> Result<ExitCode, Failure> {
    let outcome = async {
        let instance = match &args.target {
            ExecTarget::Instance(id) => *id,
            ExecTarget::Service(service) => pick(client, service).await?,
        };
        let spec = spec(&args.command);
        // It is answered when the command runs.
        carry(client.exec(instance, &spec).await?, &spec, true).await
    };
    outcome.await.map_err(|failure: Failure| failure.with_exit(Exit::NotRun))
}

/// In an instance that is made for it.
pub async fn run(client: &Client, args: &RunArgs) -> Result<ExitCode, Failure> {
    let outcome = async {
        let service = service(client, &args.source).await?;
        let spec = spec(&args.command);
        carry(client.run(&service, &spec).await?, &spec, false).await
    };
    outcome.await.map_err(|failure: Failure| failure.with_exit(Exit::NotRun))
}

fn spec(args: &CommandArgs) -> ExecSpec {
    let is_terminal = args.terminal || !args.no_terminal && io::stdin().is_terminal() && io::stdout().is_terminal();
    ExecSpec {
        command: args.command.clone(),
        terminal: is_terminal.then(terminal::size),
        has_input: args.interactive || is_terminal,
    }
}

/// The service that is named, or the only one of its app.
async fn service(client: &Client, source: &AppSource) -> Result<ServiceRef, Failure> {
    let AppSource { app, service } = source;
    if let Some(service) = service {
        return Ok(ServiceRef::new(app.clone(), service.clone()));
    }
    let found = client.app_status(app, None).await?.value.services;
    match found.as_slice() {
        [only] => Ok(ServiceRef::new(app.clone(), only.service.clone())),
        many => {
            let names: Vec<_> = many.iter().map(|one| format!("{app}/{}", one.service)).collect();
            let names = names.join(", ");
            Err(Failure::new(Exit::Usage, format!("{app} has more services than one: name {names}")))
        }
    }
}

/// A ready instance of a service, or else one that runs.
async fn pick(client: &Client, service: &ServiceRef) -> Result<InstanceId, Failure> {
    let list = client.instances(Some(&service.app)).await?;
    let runs = list.items.iter().filter(|one| one.service == service.service && one.hook.is_none());
    let runs = runs.filter(|one| one.state == InstanceState::Running);
    runs.min_by_key(|one| (!one.is_ready, one.id)).map(|one| one.id).ok_or_else(|| {
        let said = format!("no instance of {}/{} runs", service.app, service.service);
        Failure::new(Exit::NotFound, said).hint("`insula ps` lists what there is, and how it is")
    })
}

/// Stands between the session and this process's own streams.
async fn carry(session: ExecSession, spec: &ExecSpec, is_started: bool) -> Result<ExitCode, Failure> {
    let (is_terminal, has_input) = (spec.terminal.is_some(), spec.has_input);
    let ExecSession { input, output } = session;
    // Put back whatever happens, before anything is said here.
    let raw = if is_terminal { Raw::enter() } else { None };
    let outcome = tokio::select! {
        outcome = show(output, is_started) => outcome,
        outcome = tell(input.clone(), is_terminal, has_input) => outcome,
        outcome = pass_signals(input, is_terminal) => outcome,
    };
    drop(raw);
    outcome
}

/// Writes what comes; gives the command's own code.
async fn show(mut output: mpsc::Receiver<ExecOutput>, mut is_started: bool) -> Result<ExitCode, Failure> {
    let (writer, mut written) = start_writer();
    let ended = loop {
        match output.recv().await {
            Some(ExecOutput::Started) => is_started = true,
            Some(ExecOutput::Failed(why)) if !is_started => {
                break Err(Failure::new(Exit::NotRun, format!("the command was not run: {why}")));
            }
            Some(ExecOutput::Exit(exit)) => break Ok(ExitCode::from(exit.code())),
            Some(ExecOutput::Failed(why)) => {
                break Err(Failure::new(Exit::NotRun, format!("how the command ended is not known: {why}")));
            }
            Some(bytes) => {
                if writer.send(bytes).await.is_err() {
                    break Ok(ExitCode::SUCCESS);
                }
            }
            None => {
                let said = "the connection was lost, and with it the command";
                break Err(Failure::new(Exit::NotRun, said));
            }
        }
    };
    drop(writer);
    match written.recv().await {
        // A reader that has left is no error, as with every command.
        Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Some(error) => Err(Failure::new(Exit::NotRun, format!("write what the command says: {error}"))),
        None => ended,
    }
}

/// A thread that writes: one whose reader stands still must not keep the connection from showing that we are here.
#[allow(clippy::disallowed_methods, reason = "ends with its channel; blocks for as long as the reader does")]
fn start_writer() -> (mpsc::Sender<ExecOutput>, mpsc::Receiver<io::Error>) {
    let (send, mut receive) = mpsc::channel(WAITING_MAX);
    let (failed, failure) = mpsc::channel(1);
    std::thread::spawn(move || {
        while let Some(output) = receive.blocking_recv() {
            let written = match output {
                ExecOutput::Stdout(bytes) => write(io::stdout().lock(), &bytes),
                ExecOutput::Stderr(bytes) => write(io::stderr().lock(), &bytes),
                _ => Ok(()),
            };
            if let Err(error) = written {
                // The channel has room for the one that is sent.
                failed.try_send(error).ok();
                return;
            }
        }
    });
    (send, failure)
}

fn write(mut to: impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).and_then(|()| to.flush())
}

/// Sends what is read, and each new size of the window. Never ends before the session does.
async fn tell(input: mpsc::Sender<ExecInput>, is_terminal: bool, has_input: bool) -> Result<ExitCode, Failure> {
    let mut pieces = has_input.then(start_reader);
    let mut resized = watch(SignalKind::window_change())?;
    loop {
        let next = tokio::select! {
            piece = next_piece(&mut pieces) => piece,
            _ = resized.recv(), if is_terminal => ExecInput::Resize(terminal::size()),
        };
        if input.send(next).await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Waits for ever after the end.
async fn next_piece(pieces: &mut Option<mpsc::Receiver<Vec<u8>>>) -> ExecInput {
    let Some(open) = pieces else { return std::future::pending().await };
    match open.recv().await {
        Some(piece) => ExecInput::Data(piece),
        None => {
            *pieces = None;
            ExecInput::End
        }
    }
}

/// A thread that reads: it stays in its last read when the command ends, and goes with the process.
#[allow(clippy::disallowed_methods, reason = "no task can be dropped out of a read of standard input")]
fn start_reader() -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel(WAITING_MAX);
    std::thread::spawn(move || {
        let mut piece = vec![0; PIECE_LEN];
        loop {
            match io::stdin().lock().read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(read) if read > 0 => {
                    if send.blocking_send(piece[..read].to_vec()).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    });
    receive
}

fn watch(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(Exit::NotRun, format!("watch for signals: {error}")))
}

/// Passes signals on to a command without a terminal; with one, its keys do that. The second signal, or any that is meant for
/// a terminal's owner, ends the session.
async fn pass_signals(input: mpsc::Sender<ExecInput>, is_terminal: bool) -> Result<ExitCode, Failure> {
    let mut interrupt = watch(SignalKind::interrupt())?;
    let (mut quit, mut terminate) = (watch(SignalKind::quit())?, watch(SignalKind::terminate())?);
    let mut hang_up = watch(SignalKind::hangup())?;
    let mut is_second = false;
    loop {
        let (kind, name) = tokio::select! {
            _ = interrupt.recv() => (SignalKind::interrupt(), "SIGINT"),
            _ = quit.recv() => (SignalKind::quit(), "SIGQUIT"),
            _ = terminate.recv() => (SignalKind::terminate(), "SIGTERM"),
            _ = hang_up.recv() => (SignalKind::hangup(), "SIGHUP"),
        };
        let number = u8::try_from(kind.as_raw_value()).ok().and_then(|number| SignalNumber::try_from(number).ok());
        match number {
            Some(number) if !is_second && !is_terminal && kind != SignalKind::hangup() => {
                clock::timeout(SIGNAL_LIMIT, input.send(ExecInput::Signal(number))).await.ok();
            }
            _ => return Err(Failure::new(Exit::NotRun, format!("{name} came: the command was hung up on"))),
        }
        is_second = true;
    }
}
