//! The process driver: as any user, without namespaces.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::time::Duration;

use insula_container::{Exit, ObservedState, Runtime};
use support::{end, eventually, get, log_text, observed, process, without_root};

#[test]
fn a_process_gets_a_port_and_outlives_the_agent() {
    without_root("process", async |world| {
        let agent = world.open().await;
        let script = "echo $GREETING $PORT $PORT_HTTP > index.html; exec /bin/busybox httpd -f -p 127.0.0.1:$PORT -h .";
        let config = process(1, &["/bin/sh", "-c", script]);
        let running = agent.runtime.start(&config).await.unwrap();
        let address = running.endpoints[&"http".parse().unwrap()];
        let body = eventually("it serves", async || get(address, "/").await).await;
        assert_eq!(body, format!("hello {0} {0}\n", address.port()));
        let other = agent.runtime.start(&process(2, &["/bin/sleep", "1000"])).await.unwrap();
        assert_ne!(other.endpoints, running.endpoints);
        agent.crash();

        let agent = world.open().await;
        let seen = observed(&agent.runtime, config.instance).await.unwrap();
        assert_eq!(seen.state, ObservedState::Running(running));
        assert!(get(address, "/").await.is_some());
        agent.runtime.stop(config.instance, Some("SIGTERM"), Duration::from_secs(10)).await.unwrap();
        assert!(matches!(end(&agent.runtime, config.instance).await.exit, Exit::Signal(15)));
        agent.runtime.remove(config.instance).await.unwrap();
        assert!(!world.home(config.instance).exists());
        agent.crash();
    });
}

#[test]
fn children_end_with_their_process_and_with_the_shim() {
    without_root("children", async |world| {
        let agent = world.open().await;
        // A daemon: in a session of its own, its parent gone.
        let script =
            "setsid sh -c 'echo $$ > child; exec sleep 1000' & while [ ! -s child ]; do sleep 0.01; done; sleep 1000";
        let child = async |instance| {
            let file = world.home(instance).join("work/child");
            let text =
                eventually("a child runs", async || std::fs::read_to_string(&file).ok().filter(|t| !t.is_empty()));
            text.await.trim().parse::<i32>().unwrap()
        };
        let config = process(1, &["/bin/sh", "-c", script]);
        agent.runtime.start(&config).await.unwrap();
        let pid = child(config.instance).await;
        agent.runtime.stop(config.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
        assert!(is_gone(pid), "a child outlives its process");

        let config = process(2, &["/bin/sh", "-c", script]);
        let running = agent.runtime.start(&config).await.unwrap();
        let pid = child(config.instance).await;
        let shim = rustix::process::Pid::from_raw(world.shim_pid(config.instance).unwrap() as i32).unwrap();
        rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
        assert!(matches!(end(&agent.runtime, config.instance).await.exit, Exit::Unseen(_)));
        eventually("nothing is left", async || (is_gone(pid) && is_gone(running.pid as i32)).then_some(())).await;
        agent.crash();
    });
}

#[test]
fn a_process_that_cannot_start_says_why() {
    without_root("nothing", async |world| {
        let agent = world.open().await;
        let error = agent.runtime.start(&process(1, &["/no/such/program"])).await.expect_err("no program");
        assert!(error.to_string().contains("start /no/such/program: No such file"), "{error}");
        let config = process(2, &["/bin/sh", "-c", "echo out; echo err >&2; exit 7"]);
        agent.runtime.start(&config).await.unwrap();
        assert_eq!(end(&agent.runtime, config.instance).await.exit, Exit::Code(7));
        let log = log_text(&agent.runtime, config.instance).await;
        assert!(log.contains("Z stdout F out\n") && log.contains("Z stderr F err\n"), "{log}");
        agent.crash();
    });
}

/// Dead, or a zombie that nobody reaped yet.
fn is_gone(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}
