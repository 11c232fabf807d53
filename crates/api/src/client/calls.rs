//! One method per endpoint.

mod apps;
mod cluster;
mod storage;

use http::{HeaderValue, Method, header};

use super::{CALL_LIMIT, Call, Client, ClientError, EventReader, LogReader};

impl Client {
    /// An answer that comes in pieces. The time until the first byte is bounded.
    async fn stream(&self, path: String) -> Result<LogReader, ClientError> {
        let call = self.call(Method::GET, path);
        let what = call.path.clone();
        let response = insula_env::clock::timeout(CALL_LIMIT, self.send(&call))
            .await
            .map_err(|_| ClientError::TimedOut { what: what.clone(), limit: CALL_LIMIT })??;
        Ok(LogReader { body: response.into_body(), what })
    }
}

/// The call, to be done only when what it changes is at that number.
fn expecting(mut call: Call, expected: Option<u64>) -> Call {
    if let Some(number) = expected {
        let value = HeaderValue::try_from(format!("\"{number}\"")).expect("digits between quotes");
        call.headers.push((header::IF_MATCH, value));
    }
    call
}
