//! Requests for approvals by a user of this machine: the same operations and answers as `/-/coldframe/requests`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::app::core::local_client;
use crate::firewall::ApprovalRequests;
use crate::policy::principal::check_person;
use crate::policy::requests::Actor;
use crate::server::admin::requests::{self, ApiError, AskBody, DecisionBody, RequestAction};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum RequestOperation {
    Ask(AskBody),
    /// Lists requests by the query of the HTTP API.
    List(String),
    Show(i64),
    Change(i64, RequestAction, DecisionBody),
}

/// Performs an operation in the name of a user of this machine. Any user who can write to the data directory can do so too.
pub(crate) async fn perform(
    requests: &ApprovalRequests,
    (user, profile): (&str, usize),
    operation: RequestOperation,
) -> Result<Value, String> {
    check_person(user).map_err(|expected| format!("invalid name of a user: {expected}"))?;
    let (client, by) = (local_client(profile), Actor::local(user, requests.now()));
    let answer = async {
        Ok(match operation {
            RequestOperation::Ask(body) => json!(requests::ask_for(requests, &client, by, body).await?),
            RequestOperation::List(query) => json!(requests::list(requests, &client, Some(&query)).await?),
            RequestOperation::Show(id) => json!(requests::details(requests, &client, id).await?),
            RequestOperation::Change(id, action, body) => {
                json!(requests::change(requests, (&client, by), id, (action, body)).await?)
            }
        })
    };
    answer.await.map_err(|error: ApiError| error.text())
}
