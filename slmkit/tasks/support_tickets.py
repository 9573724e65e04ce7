"""Support tickets: what customers of a small invented bank ask for, in 12 intents; written here and shipped."""

from __future__ import annotations

from slmkit.tasks._shipped import task

INTENTS = {
    "account_closing": "closing",
    "account_opening": "opening",
    "card_declined": "declined",
    "card_lost": "lost",
    "cash_machine": "cash",
    "change_details": "details",
    "charge_dispute": "dispute",
    "fee_question": "fee",
    "loan_request": "loan",
    "login_trouble": "login",
    "savings_rate": "savings",
    "transfer_missing": "transfer",
}

TASKS = (
    task(
        "support_tickets",
        "Support tickets",
        INTENTS,
        "Decide what the bank's customer mainly wants help with: account closing or opening, a declined or lost card, "
        "cash machine, change of details, dispute of a charge, fee, loan, login, savings or a missing transfer.",
        "message",
        n_rows=960,
    ),
)
