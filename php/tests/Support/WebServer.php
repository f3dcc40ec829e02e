<?php

declare(strict_types=1);

namespace Roster\Tests\Support;

/** A real nginx with php-fpm behind it, in a folder of their own, and a browser that asks much at once. */
final class WebServer
{
    private readonly Process $fpm;
    private readonly Process $nginx;
    // Goes last, for what is declared before it ends first.
    private readonly Folder $folder;

    public function __construct(int $workers)
    {
        $fpm = self::program('php-fpm' . PHP_MAJOR_VERSION . '.' . PHP_MINOR_VERSION);
        $nginx = self::program('nginx');
        $this->folder = new Folder();
        $path = $this->folder->path;
        $this->folder->file('fpm.conf', $this->fpmConfiguration($workers));
        $this->folder->file('nginx.conf', $this->nginxConfiguration());
        // Only root must say whom the workers run as; here they may be root too, to reach the folders of the test.
        $asRoot = posix_getuid() === 0 ? ['-R'] : [];
        $this->fpm = new Process([$fpm, '-F', ...$asRoot, '-y', "$path/fpm.conf"], "$path/fpm.log");
        $command = [$nginx, '-p', $path, '-e', "$path/error.log", '-c', "$path/nginx.conf"];
        $this->nginx = new Process($command, "$path/log");
        foreach (['fpm', 'nginx'] as $name) {
            $accepts = static fn () => (bool) @stream_socket_client("unix://$path/$name.sock");
            Process::until($accepts, "$name accepts connections", 30);
        }
    }

    private static function program(string $name): string
    {
        foreach (['/usr/sbin', '/usr/local/sbin', '/usr/bin'] as $folder) {
            if (is_executable("$folder/$name")) {
                return "$folder/$name";
            }
        }
        Skip::because("$name is not installed");
    }

    /**
     * Asks for as many pages at once as there are questions, again and again.
     *
     * @param callable(): ?array<string, string> $question what to ask next; null: no more
     * @param callable(array<string, string>, ?array<string, mixed>, string): void $answer a question, its answer (null:
     *     none), and that as it came
     */
    public function browse(int $atOnce, callable $question, callable $answer): void
    {
        [$open, $questions, $received] = [[], [], []];
        while (true) {
            while (count($open) < $atOnce && ($asked = $question()) !== null) {
                $stream = stream_socket_client("unix://{$this->folder->path}/nginx.sock");
                fwrite($stream, 'GET /?' . http_build_query($asked) . " HTTP/1.0\r\n\r\n");
                $open[(int) $stream] = $stream;
                [$questions[(int) $stream], $received[(int) $stream]] = [$asked, ''];
            }
            if ($open === []) {
                return;
            }
            [$ready, $none] = [$open, null];
            stream_select($ready, $none, $none, 10);
            foreach ($ready as $stream) {
                $id = (int) $stream;
                $received[$id] .= fread($stream, 65_536);
                if (feof($stream)) {
                    unset($open[$id]);
                    fclose($stream);
                    $body = explode("\r\n\r\n", $received[$id], 2)[1] ?? '';
                    $answer($questions[$id], json_decode($body, true), $body);
                }
            }
        }
    }

    private function fpmConfiguration(int $workers): string
    {
        $owner = posix_getuid() === 0 ? "user = root\n" : '';
        return <<<INI
            [global]
            error_log = {$this->folder->path}/fpm-error.log
            daemonize = no
            [www]
            $owner
            listen = {$this->folder->path}/fpm.sock
            pm = static
            pm.max_children = $workers
            catch_workers_output = yes
            INI;
    }

    private function nginxConfiguration(): string
    {
        $page = __DIR__ . '/web.php';
        $temporary = '';
        foreach (['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'] as $kind) {
            $temporary .= "{$kind}_temp_path {$this->folder->path}/$kind;\n";
        }
        return <<<NGINX
            daemon off;
            master_process off;
            pid {$this->folder->path}/nginx.pid;
            events {}
            http {
                access_log off;
                $temporary
                server {
                    listen unix:{$this->folder->path}/nginx.sock;
                    location / {
                        fastcgi_pass unix:{$this->folder->path}/fpm.sock;
                        fastcgi_param REQUEST_METHOD GET;
                        fastcgi_param SCRIPT_FILENAME $page;
                        fastcgi_param QUERY_STRING \$query_string;
                    }
                }
            }
            NGINX;
    }
}
