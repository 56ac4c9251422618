"""All HTTP that leaves this package: the records for a request and its response, the seam, and its implementation."""

from idioteque.transport.addresses import AddressCheck as AddressCheck
from idioteque.transport.addresses import is_address as is_address
from idioteque.transport.addresses import origin as origin
from idioteque.transport.addresses import resolve as resolve
from idioteque.transport.pool import PooledTransport as PooledTransport
from idioteque.transport.records import DEFAULT_TIMEOUT_S as DEFAULT_TIMEOUT_S
from idioteque.transport.records import RESPONSE_BYTES_MAX as RESPONSE_BYTES_MAX
from idioteque.transport.records import Beginning as Beginning
from idioteque.transport.records import Handler as Handler
from idioteque.transport.records import Headers as Headers
from idioteque.transport.records import HttpRequest as HttpRequest
from idioteque.transport.records import HttpResponse as HttpResponse
from idioteque.transport.records import HttpTransport as HttpTransport
from idioteque.transport.records import beginning_of as beginning_of
