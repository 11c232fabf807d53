//! Runs commands in instances.

use http::{HeaderValue, Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use insula_env::clock;
use insula_types::{ExecSpec, InstanceId, ServiceRef};

use super::{CALL_LIMIT, Client, ClientError, problem};
use crate::{ExecSession, exec};

impl Client {
    /// Runs a command in an instance. Sent once: an answer that is lost leaves open whether it ran for a moment. The time until
    /// it runs is bounded, what follows is not.
    ///
    /// # Errors
    /// As every call here.
    pub async fn exec(&self, id: InstanceId, spec: &ExecSpec) -> Result<ExecSession, ClientError> {
        self.begin_command(format!("/v1/instances/{id}/exec"), spec).await
    }

    /// Runs a command in an instance of a service that is made for it. As [`Client::exec`], but that the answer may come before
    /// the command runs: [`insula_types::ExecOutput::Started`] says that it does.
    ///
    /// # Errors
    /// As every call here.
    pub async fn run(&self, service: &ServiceRef, spec: &ExecSpec) -> Result<ExecSession, ClientError> {
        self.begin_command(format!("/v1/apps/{}/services/{}/run", service.app, service.service), spec).await
    }

    async fn begin_command(&self, path: String, spec: &ExecSpec) -> Result<ExecSession, ClientError> {
        let mut call = self.call(Method::POST, path).with_json(spec);
        call.headers.push((header::CONNECTION, HeaderValue::from_static("Upgrade")));
        call.headers.push((header::UPGRADE, exec::PROTOCOL));
        let what = format!("{} {}", call.method, call.path);
        let response = clock::timeout(CALL_LIMIT, self.send_once(&call))
            .await
            .map_err(|_| ClientError::TimedOut { what: what.clone(), limit: CALL_LIMIT })??;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(problem(response, &call).await);
        }
        let io = hyper::upgrade::on(response).await;
        let io = io.map_err(|source| ClientError::CutOff { what, source: source.into() })?;
        let (session, far) = ExecSession::new();
        self.env.tasks.spawn("command in an instance", async move {
            exec::carry(TokioIo::new(io), far.input, far.output, std::future::pending()).await;
        });
        Ok(session)
    }
}
