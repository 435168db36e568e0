"""Write one part of the page each, as HTML; "" where there is nothing to show."""
