"""BANKING77: 13,083 questions to a bank, each with one of 77 intents (Casanueva et al. 2020).

Labels are spelled as published, the one with a capital letter and the one with a question mark too, so that figures
for a class can be compared; the word a model should say is the letters of the label, in lower case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmkit.assets.sources import HubData
from slmkit.tasks import Task, _hub

if TYPE_CHECKING:
    import pandas as pd

NAMES = (  # by number
    "activate_my_card",
    "age_limit",
    "apple_pay_or_google_pay",
    "atm_support",
    "automatic_top_up",
    "balance_not_updated_after_bank_transfer",
    "balance_not_updated_after_cheque_or_cash_deposit",
    "beneficiary_not_allowed",
    "cancel_transfer",
    "card_about_to_expire",
    "card_acceptance",
    "card_arrival",
    "card_delivery_estimate",
    "card_linking",
    "card_not_working",
    "card_payment_fee_charged",
    "card_payment_not_recognised",
    "card_payment_wrong_exchange_rate",
    "card_swallowed",
    "cash_withdrawal_charge",
    "cash_withdrawal_not_recognised",
    "change_pin",
    "compromised_card",
    "contactless_not_working",
    "country_support",
    "declined_card_payment",
    "declined_cash_withdrawal",
    "declined_transfer",
    "direct_debit_payment_not_recognised",
    "disposable_card_limits",
    "edit_personal_details",
    "exchange_charge",
    "exchange_rate",
    "exchange_via_app",
    "extra_charge_on_statement",
    "failed_transfer",
    "fiat_currency_support",
    "get_disposable_virtual_card",
    "get_physical_card",
    "getting_spare_card",
    "getting_virtual_card",
    "lost_or_stolen_card",
    "lost_or_stolen_phone",
    "order_physical_card",
    "passcode_forgotten",
    "pending_card_payment",
    "pending_cash_withdrawal",
    "pending_top_up",
    "pending_transfer",
    "pin_blocked",
    "receiving_money",
    "Refund_not_showing_up",
    "request_refund",
    "reverted_card_payment?",
    "supported_cards_and_currencies",
    "terminate_account",
    "top_up_by_bank_transfer_charge",
    "top_up_by_card_charge",
    "top_up_by_cash_or_cheque",
    "top_up_failed",
    "top_up_limits",
    "top_up_reverted",
    "topping_up_by_card",
    "transaction_charged_twice",
    "transfer_fee_charged",
    "transfer_into_account",
    "transfer_not_received_by_recipient",
    "transfer_timing",
    "unable_to_verify_identity",
    "verify_my_identity",
    "verify_source_of_funds",
    "verify_top_up",
    "virtual_card_not_working",
    "visa_or_mastercard",
    "why_verify_identity",
    "wrong_amount_of_cash_received",
    "wrong_exchange_rate_for_cash_withdrawal",
)
DATA = HubData(
    "banking77",
    "legacy-datasets/banking77",
    {"train": "data/train-*", "test": "data/test-*"},
    "f54121560de48f2852f90be299010d1d6dc612ec",
    {
        "data/train-00000-of-00001.parquet": "3c648a31689f4ab3acbd4f4f4d120944bb521cf6ba57da77aa87c57e8979be81",
        "data/test-00000-of-00001.parquet": "318da70fb77a0e01bcfaecc97ef6e3645313aab98c429f0f0630c9d48e703ecc",
    },
)
CARD = """# BANKING77
Questions of customers to a bank in English, each with one of 77 intents: train 10,003, test 3,080.

- Over 1,400 (14 %) of the questions in train may have a wrong label (Ying and Thomas 2022).
- There is no validation part: take one from train.
- Label 51 is written "Refund_not_showing_up", label 53 "reverted_card_payment?": both are kept as published.
- Near twins between train and test exist; how many was not read: slmkit removes duplicates when it splits.
- The repository is marked deprecated in favour of PolyAI/banking77, which holds a loading script and no data.
- Licence: CC BY 4.0.
- Hub: legacy-datasets/banking77, revision f54121560de48f2852f90be299010d1d6dc612ec.
"""


def read(data: HubData = DATA) -> pd.DataFrame:
    """All rows in file order, with their part."""
    return _hub.classified(data, "text", "label", NAMES)


def _word(label: str) -> str:
    return "".join(character for character in label.casefold() if character.isalpha())


TASKS = (
    Task(
        name="banking77",
        title="BANKING77",
        labels=tuple(sorted(NAMES)),
        positive=None,
        instruction="Decide which of 77 intents the customer's question to the bank has.",
        label_words={name: _word(name) for name in sorted(NAMES)},
        noun="question",
        licence="CC BY 4.0",
        source="I. Casanueva, T. Temcinas, D. Gerz, M. Henderson, I. Vulic: Efficient Intent Detection with Dual "
        "Sentence Encoders, 2nd Workshop on NLP for ConvAI, ACL 2020. https://github.com/PolyAI-LDN/task-specific-datasets",
        card=CARD,
        read=read,
        n_rows=13_083,
        n_bytes=392_000,  # 298 kB + 93.9 kB, as the hub rounds them
        data=DATA,
    ),
)
