<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Exception\NotReady;
use Roster\Tests\Support\Folder;
use Roster\Tests\Support\Patient;
use Roster\Tests\Support\Process;
use Roster\Tests\Support\Roster;
use Roster\Tests\Support\Supervisor;

/** What the documentation and the examples show of workers does what they say. */
final class WorkerExamplesTest extends TestCase
{
    private const ROOT = __DIR__ . '/../..';

    public function testTheSampleOfThePageIsCalledAsThePageSays(): void
    {
        $this->assertSampleAnswers(self::blocks('php')[0]);
    }

    /** In the tests' own loop; where Composer has installed ReactPHP, in its own. */
    public function testTheSampleInTheLoopOfReactDoesTheSame(): void
    {
        $react = getenv('ROSTER_REGISTER_CENTER') ?: __DIR__ . '/Support/react.php';
        $loop = current(array_filter(self::blocks('php'), static fn (string $block) => str_contains($block, 'Loop::')));
        $use = "use React\\EventLoop\\Loop;\n";
        $sample = str_replace($use, '', str_replace('$worker->run();', $loop, self::blocks('php')[0], $count));
        self::assertSame(1, $count);
        $begin = "use Roster\\Worker;\n{$use}require '$react';\n";
        $this->assertSampleAnswers(str_replace("use Roster\\Worker;\n", $begin, $sample) . "\nLoop::run();\n");
    }

    private function assertSampleAnswers(string $sample): void
    {
        $roster = new Roster(['/a' => 'b'], hasRegister: true);
        $folder = new Folder();
        $environment = ['REGISTER' => "tcp://$roster->register", 'REGISTER_TOKEN' => Roster::TOKEN];
        $command = [PHP_BINARY, '-d', 'include_path=' . self::ROOT, $folder->file('mail.php', $sample)];
        $worker = new Process($command, "$folder->path/log", $environment);
        $client = Patient::local($roster->socket, '', '');
        $isListed = static function () use ($client): bool {
            try {
                return $client->masters('mail') !== [];
            } catch (NotReady) {
                return false;
            }
        };
        Process::until($isListed, 'it is listed', 30);
        [$first, $second] = explode(' && ', trim(self::blocks('sh')[1]));
        $run = static fn (string $line) => $roster->command(...explode(' ', substr($line, strlen('roster '))));
        self::assertSame([0, "\"nobody has written to ada@example.com\"\n", ''], $run($first));
        $roster->end(SIGTERM);
        $roster->start();
        $three = [0, "\"user1@example.com\"\n\"user2@example.com\"\n\"user3@example.com\"\n", ''];
        Process::until(static fn () => $run($second) === $three, 'it is called after a restart', 30);
        posix_kill($worker->id, SIGTERM);
        self::assertSame(0, $worker->await(), $worker->output());
        Process::until(static fn () => $client->masters('mail') === [], 'it is gone');
    }

    /** @return list<string> the page's blocks of code in a language */
    private static function blocks(string $language): array
    {
        preg_match_all("~^```$language\n(.*?)^```~ms", file_get_contents(self::ROOT . '/docs/php-worker.md'), $blocks);
        return $blocks[1];
    }

    /** The callable that serves connections, on what clients may do. */
    public function testTheSampleForConnectionsIsHeldUpByNoClient(): void
    {
        $isIt = static fn (string $block) => str_contains($block, 'onConnection(');
        preg_match('~onConnection\((function .*?^})\);~ms', current(array_filter(self::blocks('php'), $isIt)), $sample);
        $serve = eval("return $sample[1];");
        $ask = static function (string $request) use ($serve): string {
            [$connection, $client] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
            stream_set_blocking($client, false);
            fwrite($client, $request);
            $began = microtime(true);
            $serve($connection, ['peer' => '127.0.0.1:7']);
            self::assertLessThan(10, microtime(true) - $began);
            fclose($connection);
            return (string) stream_get_contents($client);
        };
        self::assertSame("127.0.0.1:7 asked the time\n", $ask("the time\nand more\n"));
        self::assertSame('', $ask(''));
        self::assertSame(strlen('127.0.0.1:7 asked ') + 8_191, strlen($ask(str_repeat('x', 50_000))));
    }

    public function testTheWebServerAnswersFromTheSocketThatItsProcessesShare(): void
    {
        $listener = stream_socket_server('tcp://127.0.0.1:0');
        $address = stream_socket_get_name($listener, false);
        $command = [PHP_BINARY, self::ROOT . '/examples/workers/web.php'];
        $names = ['LISTEN_FDNAMES' => '8080'];
        $start = static fn (string $id) => new Supervisor($names + ['ROSTER_WORKER' => $id], [$listener], $command);
        $sidecars = [$start('web/1'), $start('web/2')];
        $ask = static function (string $request) use ($address): string {
            $client = stream_socket_client("tcp://$address", timeout: 10);
            fwrite($client, $request);
            return stream_get_contents($client);
        };
        foreach ($sidecars as $sidecar) {
            $sidecar->receive('worker-ready');
        }
        for ($times = 0; $times < 50; $times++) {
            $answer = $ask("GET /hello?$times HTTP/1.1\r\nHost: a\r\n\r\n");
            $expected = "~^HTTP/1\.1 200 OK\r\n.*\r\n\r\n/hello\\?$times, by web/[12]\n\\z~s";
            self::assertMatchesRegularExpression($expected, $answer);
        }
        self::assertStringStartsWith('HTTP/1.1 400 ', $ask("POST / HTTP/1.1\r\n\r\n"));
        foreach ($sidecars as $sidecar) {
            self::assertSame([['pong'], null], $sidecar->ask(['cmd' => 'worker-command', 'name' => 'ping']));
            $sidecar->send(['cmd' => 'worker-stop']);
            self::assertSame(0, $sidecar->worker->await());
        }
    }

    public function testTheMailWorkerSendsAndLogs(): void
    {
        $command = [PHP_BINARY, self::ROOT . '/examples/workers/mail.php'];
        $sidecar = new Supervisor(['ROSTER_PARAMS' => '{"from":"shop@example.com"}'], command: $command);
        $sidecar->receive('worker-ready');
        $sent = $sidecar->call('send', ['to' => 'ada@example.com', 'text' => 'Hello'], 'letters');
        self::assertSame([['shop@example.com has written to ada@example.com'], null], $sent);
        self::assertSame(['bytes' => 5, 'to' => 'ada@example.com'], $sidecar->receive('worker-log')['context']);
        self::assertCount(2, $sidecar->call('sendMany', [['a@b', 'c@d'], 'Hello'], 'letters')[0]);
        self::assertSame('`nobody` is no address', $sidecar->call('send', ['nobody', ''], 'letters')[1]['data']['message']);
        self::assertSame([[3], null], $sidecar->ask(['cmd' => 'worker-command', 'name' => 'sent']));
    }
}
