"""Loss laws: pytrees whose leaves are the coefficients, called on the fields they declare."""

from scalesim.laws.base import FIELDS, Coefficient, Law, coefficient, fields_of

__all__ = ["FIELDS", "Coefficient", "Law", "coefficient", "fields_of"]
