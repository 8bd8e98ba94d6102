"""Conversation: a session, the steps of a turn, the generators that answer, the store that keeps, the terminal."""
