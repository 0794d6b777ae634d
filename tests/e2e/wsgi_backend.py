"""A backend that reads header names as CGI does (WSGI, PEP 3333): `-` becomes `_`, letters become capitals."""

import threading
from wsgiref.simple_server import WSGIRequestHandler, make_server


class WsgiBackend:
    """Keeps the environ of every request. Several fields of one variable are joined with a comma, as servers do."""

    def __init__(self):
        self.environs = []

        class Quiet(WSGIRequestHandler):
            def log_message(self, *_):
                pass

            def get_environ(self):
                # wsgiref keeps the first of two names that fold into one; others the last, or both. Here: both.
                environ = {k: v for k, v in super().get_environ().items() if not k.startswith("HTTP_")}
                for name, value in self.headers.items():
                    variable = "HTTP_" + name.upper().replace("-", "_").replace(".", "_")
                    environ[variable] = f"{environ[variable]},{value}" if variable in environ else value
                return environ

        def app(environ, start_response):
            self.environs.append({k: v for k, v in environ.items() if isinstance(v, str)})
            start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
            return [b"ok"]

        self.server = make_server("127.0.0.1", 0, app, handler_class=Quiet)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def last(self) -> dict:
        return self.environs[-1]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
