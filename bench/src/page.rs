//! A page that says who serves it, as the demo's image does, for instances without a container.

use std::{convert::Infallible, env, net::SocketAddr};

use anyhow::Context;
use hyper::{Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use insula_env::{TaskGroup, net};

/// Serves on `$PORT` until killed, whatever path is asked for.
///
/// # Errors
/// Without a port in the environment, or when it is taken.
pub async fn serve(tasks: &TaskGroup) -> anyhow::Result<()> {
    let port = env::var("PORT").context("the variable PORT says where to listen")?;
    let port: u16 = port.parse().with_context(|| format!("PORT={port} is no port"))?;
    let word = |name| env::var(name).unwrap_or_default();
    let page = format!("instance={} node={} version=v1\n", word("INSULA_INSTANCE"), word("INSULA_NODE"));
    let listener =
        net::bind(SocketAddr::from(([0, 0, 0, 0], port))).await.with_context(|| format!("listen on {port}"))?;
    loop {
        let (stream, _) = listener.accept().await.context("accept a connection")?;
        let page = page.clone();
        tasks.spawn("connection", async move {
            let answer = service_fn(move |_| {
                let page = page.clone();
                async move { Ok::<_, Infallible>(Response::new(page)) }
            });
            // A visitor that goes away early is no matter.
            http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await.ok();
        });
    }
}
