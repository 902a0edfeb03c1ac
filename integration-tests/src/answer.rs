//! What a server of the cluster answered.

use serde_json::Value;

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub text: String,
}

impl Answer {
    /// Reads an answer to its end.
    ///
    /// # Errors
    /// If it does not arrive as a whole.
    pub async fn read(response: reqwest::Response) -> reqwest::Result<Self> {
        let status = response.status().as_u16();
        Ok(Self { status, text: response.text().await? })
    }

    /// The body as JSON. Panics if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body, of an answer that must be a success.
    pub fn success(self) -> String {
        assert_eq!(self.status, 200, "{}", self.text);
        self.text
    }

    /// The sentence of an answer that must be a refusal of that status and kind.
    pub fn refusal(&self, status: u16, kind: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        let body = self.json();
        assert_eq!(body["error"], kind, "{body}");
        body["cause"].as_str().unwrap_or_else(|| panic!("there is no cause: {body}")).to_owned()
    }
}
