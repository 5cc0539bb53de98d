"""A client for servers of OpenAI's protocol: `client` sends, `pacing` holds back, `answers` reads what comes."""
